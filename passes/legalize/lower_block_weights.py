"""Products with weights in blocks of codes as ONNX Runtime's own operators, which unpack them block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.legalize.block_weight import BlockWeight, block_weight_of
from passes.legalize.contrib import has_contrib, insert_contrib, lacks_kernel
from passes.matching import constant_tensor, input_at, integer, is_op, number

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

_PRODUCT = "MatMulNBits"
_LOOKUP = "GatherBlockQuantized"


@dataclass(frozen=True)
class LowerBlockWeights(Pass):
    """Lower DequantizeLinear of a constant in blocks, and the MatMul, Gemm or Gather behind it, to one operator.

    MatMul and Gemm become com.microsoft MatMulNBits, with the bias inside; Gather becomes GatherBlockQuantized. Without
    this, ONNX Runtime unpacks the whole weight at every run. Codes, scales and zero points are stored once however many
    nodes read them.
    accuracy_level: what MatMulNBits may round its input to: 0 and 1 float32, 2 float16, 3 bfloat16, 4 int8 (faster).
    Refuses blocks that are no power of two from 16 on, a Gemm that scales, and types without a kernel.
    """

    accuracy_level: int = 0

    name: ClassVar[str] = "lower-block-weights"

    def __post_init__(self) -> None:
        if self.accuracy_level not in range(5):
            raise ValueError(f"accuracy_level is {self.accuracy_level}; it is 0 to 4")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not has_contrib(context, _PRODUCT):
            return recorder.result()
        editor = Editor(model)
        stored: dict[ir.Node, BlockWeight] = {}
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is graph and is_op(node, "MatMul", "Gemm", "Gather"):
                    self._lower(node, context, recorder, editor, stored)
        for weight in stored.values():
            weight.drop_unread(model)
        return recorder.result()

    def _lower(
        self, node: ir.Node, context: Context, recorder: Recorder, editor: Editor, stored: dict[ir.Node, BlockWeight]
    ) -> None:
        is_lookup = node.op_type == "Gather"
        found = block_weight_of(node, 0 if is_lookup else 1)
        if found is None:
            return
        operator = _LOOKUP if is_lookup else _PRODUCT
        reason = found.problem() or (_lookup_obstacle(found, context) if is_lookup else _obstacle(node))
        reason = reason or lacks_kernel(context, operator, found.node.inputs[1])  # the scales have the data's type
        if reason:
            recorder.refuse(node, reason)
            return
        if not recorder.may_apply(node, operator):
            return
        weight = stored.setdefault(found.node, found)
        new = self._lookup(node, weight, editor) if is_lookup else self._product(node, weight, editor)
        editor.take_over(node.outputs[0], new)

    def _product(self, node: ir.Node, weight: BlockWeight, editor: Editor) -> ir.Value:
        parts = weight.parts(editor)
        attributes = {"K": weight.rows, "N": weight.columns, "bits": weight.bits, "block_size": weight.length}
        if self.accuracy_level:
            attributes["accuracy_level"] = self.accuracy_level
        bias = input_at(node, 2)
        inputs = [node.inputs[0], parts.codes, parts.scales, parts.zero_points, None, bias]
        return insert_contrib(editor, node, _PRODUCT, inputs, like=node.outputs[0], attributes=attributes)

    def _lookup(self, node: ir.Node, weight: BlockWeight, editor: Editor) -> ir.Value:
        parts = weight.parts(editor)
        attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": weight.length, "bits": weight.bits}
        inputs = [weight.table(editor, node), node.inputs[1], parts.scales, parts.zero_points]
        return insert_contrib(editor, node, _LOOKUP, inputs, like=node.outputs[0], attributes=attributes)


def _obstacle(node: ir.Node) -> str:
    if node.op_type == "MatMul":
        return ""
    if integer(node, "transA", 0):
        return "the Gemm transposes its input"
    if number(node, "alpha", 1.0) != 1 or number(node, "beta", 1.0) != 1:
        return "the Gemm scales"
    bias = input_at(node, 2)
    tensor = constant_tensor(bias)
    if bias is not None and (tensor is None or len(tensor.shape) != 1 or tensor.size == 1):
        return f"the bias '{bias.name}' is not a constant of one entry a column"
    return ""


def _lookup_obstacle(weight: BlockWeight, context: Context) -> str:
    if not has_contrib(context, _LOOKUP):
        return f"the runtime has no {_LOOKUP}"
    if weight.rows * weight.bits % 8:
        return f"a row of {weight.rows} codes of {weight.bits} bits ends within a byte"
    return ""
