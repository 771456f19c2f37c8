"""Half precision written into the graph's types: float16 or bfloat16 inside, float32 at the inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.precision.overflow import reason_for_float32

if TYPE_CHECKING:
    import onnx_ir as ir

HalfType = Literal["FLOAT16", "BFLOAT16"]

_NEUTRAL = frozenset({"Shape", "Size", "Cast", "CastLike", "IsNaN", "IsInf"})
"""Operators that take any type, and whose result does not follow it."""

_FLOAT32_INPUTS: dict[str, frozenset[int]] = {"Resize": frozenset({2}), "Upsample": frozenset({1})}
"""Inputs that the standard fixes to float32, by operator."""


@dataclass(frozen=True)
class ConvertFp16(Pass):
    """Compute in float16, with weights stored so; graph inputs and outputs keep their types.

    Operators that overflow or lose digits stay in float32 between Casts, as do those whose calibrated values come near
    65504; each is listed with its reason. Finite constants beyond float16, such as -3.4e38, become its largest number.
    """

    name: ClassVar[str] = "convert-fp16"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert the main graph."""
        return _Conversion(model, "FLOAT16", context, context.recorder(self.name)).run()


@dataclass(frozen=True)
class ConvertBf16(Pass):
    """Compute in bfloat16, with weights stored so; graph inputs and outputs keep their types.

    Operators that lose digits stay in float32 between Casts, each listed with its reason.
    """

    name: ClassVar[str] = "convert-bf16"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert the main graph."""
        return _Conversion(model, "BFLOAT16", context, context.recorder(self.name)).run()


class _Conversion:
    """One graph on its way from float32 to `half`: each value is cast at most once in either direction."""

    def __init__(self, model: ir.Model, half: HalfType, context: Context, recorder: Recorder) -> None:
        import ml_dtypes
        import onnx_ir as ir

        self.model = model
        self.graph = model.graph
        self.half = ir.DataType[half]
        self.single = ir.DataType.FLOAT
        self.suffix = "fp16" if half == "FLOAT16" else "bf16"
        self.greatest = float(ml_dtypes.finfo(np.float16 if half == "FLOAT16" else ml_dtypes.bfloat16).max)
        self.editor = Editor(model)
        self.context = context
        self.recorder = recorder
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> PassResult:
        import onnx_ir as ir

        if any(value.dtype is None for node in self.graph for value in node.outputs):
            from onnx_ir.passes.common import ShapeInferencePass

            ShapeInferencePass()(self.model)
        for node in list(self.graph):
            self._give_to_subgraphs(node)
            if node.op_type == "Constant" or not self._is_float(node):
                continue
            if node.op_type in _NEUTRAL and node.domain in ("", "ai.onnx"):
                continue
            reason = reason_for_float32(node, greatest=self.greatest, ranges=self.context.ranges)
            if reason or not self.recorder.may_apply(node):
                if reason:
                    self.recorder.refuse(node, reason)
                self._give(node, self.single)
                continue
            self._give(node, self.half)
            for value in node.outputs:
                if value.dtype == self.single:
                    value.type = ir.TensorType(self.half)
                    self._restore_output(value)
        for name, value in list(self.graph.initializers.items()):
            is_read = any(True for _ in value.uses()) or value.is_graph_output() or value.is_graph_input()
            if value.dtype == self.single and not is_read:
                del self.graph.initializers[name]
        return self.recorder.result()

    def _is_float(self, node: ir.Node) -> bool:
        return any(
            value is not None and value.dtype in (self.single, self.half) for value in (*node.inputs, *node.outputs)
        )

    def _give(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Let `node` read all its float inputs as `dtype`."""
        fixed = _FLOAT32_INPUTS.get(node.op_type, frozenset())
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (self.single, self.half):
                node.replace_input_with(index, self._as(value, self.single if index in fixed else dtype))

    def _give_to_subgraphs(self, node: ir.Node) -> None:
        """Let the subgraphs of `node` read what they capture as float32, which they were written for."""
        import onnx_ir as ir

        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                graphs = [attribute.as_graph()]
            elif attribute.type == ir.AttributeType.GRAPHS:
                graphs = list(attribute.as_graphs())
            else:
                continue
            for inner in (inner for graph in graphs for inner in graph.all_nodes()):
                for index, value in enumerate(inner.inputs):
                    if value is not None and value.graph is self.graph and value.dtype == self.half:
                        inner.replace_input_with(index, self._as(value, self.single))

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        import onnx_ir as ir

        if value.dtype == dtype:
            return value
        if (value, dtype) in self._casts:
            return self._casts[value, dtype]
        tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
        made = ir.Value(
            name=self.editor.fresh_name(f"{value.name}_{self.suffix if dtype == self.half else 'fp32'}"),
            type=ir.TensorType(dtype),
            shape=value.shape,
        )
        if tensor is not None and dtype == self.half:
            made.const_value = self._halved_tensor(tensor, str(value.name), str(made.name))
            self.graph.register_initializer(made)
        else:
            label = self.editor.fresh_name(f"{made.name}_cast")
            node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[made], name=label)
            producer = value.producer()
            if producer is not None:
                self.graph.insert_after(producer, [node])
            else:
                self.graph.insert_before(self.graph[0], [node])
        self._casts[value, dtype] = made
        return made

    def _halved_tensor(self, tensor: ir.TensorProtocol, name: str, made: str) -> ir.TensorProtocol:
        import onnx_ir as ir

        array = np.asarray(tensor.numpy(), np.float32)
        beyond = np.isfinite(array) & (np.abs(array) > self.greatest)
        if beyond.any():
            array = np.where(beyond, np.copysign(np.float32(self.greatest), array), array)
            self.recorder.refuse(name, f"{int(beyond.sum())} entries beyond {self.greatest:.5g} became that number")
        return ir.Tensor(array.astype(self.half.numpy()), dtype=self.half, name=made)

    def _restore_output(self, value: ir.Value) -> None:
        """Put a float32 value of the same name in the place of a graph output that became half."""
        import onnx_ir as ir

        if not value.is_graph_output():
            return
        name = str(value.name)
        value.name = self.editor.fresh_name(f"{name}_{self.suffix}")
        restored = ir.Value(name=name, type=ir.TensorType(self.single), shape=value.shape)
        label = self.editor.fresh_name(f"{name}_cast")
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", self.single)], outputs=[restored], name=label)
        producer = value.producer()
        assert producer is not None
        self.graph.insert_after(producer, [node])
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = restored
        self._casts[value, self.single] = restored
