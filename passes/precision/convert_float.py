"""Half precision written into the graph's types: float16 or bfloat16 inside, float32 at the inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.errors import UsageError
from passes.matching import opset_of
from passes.precision.casts import CastWriter
from passes.precision.half_tensors import Constants
from passes.precision.islands import worthwhile
from passes.precision.mask_values import MaskValues, is_carrier, mask_values
from passes.precision.overflow import BFLOAT16, FLOAT16, HalfFormat, reason_for_float32
from passes.precision.type_slots import Slots, is_float, refusal, slots_of

if TYPE_CHECKING:
    import onnx_ir as ir

_NEUTRAL = frozenset({"Shape", "Size", "Cast", "IsNaN", "IsInf"})
"""Operators that take any type, and whose result does not follow it."""

_LEAST_OPSET = 13
_COUNTED = "it computes from integers alone (positions, a mask), which half precision can't count"
_ISLAND = "its neighbours are float32, and casting there and back costs more than half precision saves"


@dataclass(frozen=True)
class ConvertFp16(Pass):
    """Compute in float16, with weights stored so; graph inputs and outputs keep their types.

    Operators that overflow or lose digits stay in float32 between Casts: by what they are, by calibrated values near
    65504 or under 6e-5, by constants beyond either, by what their sums may reach, and where the casts around them cost
    more than they save. Each is listed with its reason. Masks such as -3.4e38 are added in float32, and become
    finite where an Attention reads them; infinities stay. Subgraphs are converted inside, and take and give float32.
    io: fp16 makes the graph's float32 inputs and outputs float16 too.
    """

    name: ClassVar[str] = "convert-fp16"
    optional: ClassVar[bool] = False

    io: Literal["fp32", "fp16"] = "fp32"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert the graph and its subgraphs; raises UsageError below opset 13."""
        return _convert(model, FLOAT16, context, context.recorder(self.name), io_is_half=self.io == "fp16")


@dataclass(frozen=True)
class ConvertBf16(Pass):
    """Compute in bfloat16, with weights stored so; graph inputs and outputs keep their types.

    Operators that lose digits stay in float32 between Casts, each listed with its reason, as do those whose version in
    this opset does not take bfloat16. Subgraphs are converted inside, and take and give float32.
    io: bf16 makes the graph's float32 inputs and outputs bfloat16 too.
    """

    name: ClassVar[str] = "convert-bf16"
    optional: ClassVar[bool] = False

    io: Literal["fp32", "bf16"] = "fp32"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert the graph and its subgraphs; raises UsageError below opset 13."""
        return _convert(model, BFLOAT16, context, context.recorder(self.name), io_is_half=self.io == "bf16")


def _convert(
    model: ir.Model, half: HalfFormat, context: Context, recorder: Recorder, *, io_is_half: bool
) -> PassResult:
    opset = opset_of(model)
    if opset < _LEAST_OPSET:
        raise UsageError(
            f"The graph has opset {opset}; half precision needs {_LEAST_OPSET}.",
            hint="Run the pass upgrade-opset first.",
        )
    if any(value.dtype is None for graph in model.graphs() for node in graph for value in node.outputs):
        from onnx_ir.passes.common import ShapeInferencePass

        ShapeInferencePass()(model)
    constants = Constants()
    masks = mask_values(model.graphs(), constants, greatest=half.greatest)
    candidates: dict[ir.Node, Slots] = {}
    kept: dict[ir.Node, str] = {}
    for graph in model.graphs():
        for node in graph:
            if not _is_concerned(node):
                continue
            slots = slots_of(node.op_type, opset, half.name) if node.domain in ("", "ai.onnx") else None
            reason = _COUNTED if node in masks.counted else reason_for_float32(node, half, context.ranges, constants)
            reason = reason or _masked(node, masks, half)
            reason = reason or refusal(node, slots, opset=opset, half=half.name)
            if reason or slots is None:
                kept[node] = reason
            else:
                candidates[node] = slots
    inputs = [value for value in model.graph.inputs if _is_free_float(value)] if io_is_half else []
    half_ends = {*inputs, *(model.graph.outputs if io_is_half else ())}
    chosen = worthwhile(candidates, kept, half_ends=half_ends)
    writer = CastWriter(Editor(model), half, masks)
    for value in inputs:
        writer.make_half(value)
    for graph in model.graphs():
        for node in list(graph):
            if node in kept:
                recorder.refuse(node, kept[node])
            elif node in candidates and node not in chosen:
                recorder.refuse(node, _ISLAND)
            elif node in candidates and recorder.may_apply(node):
                writer.to_half(node, candidates[node])
                continue
            if node in kept or node in candidates:
                writer.to_single(node)
    writer.finish(io_is_half=io_is_half)
    return recorder.result()


def _is_concerned(node: ir.Node) -> bool:
    """Return whether the node computes floats: constants, and what takes any type, are left to their readers."""
    is_neutral = node.op_type in _NEUTRAL and node.domain in ("", "ai.onnx")
    if is_neutral or node.op_type == "Constant":
        return False
    return any(is_float(value) for value in (*node.inputs, *node.outputs))


def _masked(node: ir.Node, masks: MaskValues, half: HalfFormat) -> str:
    """Return why a node that adds or selects a mask stays float32: a Softmax follows, which is float32 too."""
    if not is_carrier(node):
        return ""
    value = next((value for value in (*node.inputs, *node.outputs) if value in masks.huge), None)
    return "" if value is None else f"'{value.name}' may be a mask or number beyond {half.name.lower()}"


def _is_free_float(value: ir.Value) -> bool:
    return is_float(value) and value.dtype is not None and value.dtype.name == "FLOAT" and not value.is_initializer()
