"""A matrix product without the Reshapes that made matrices of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim
from passes.editing import Editor
from passes.fusion.transposed_weight import transposed_weight
from passes.matching import (
    constant_tensor,
    input_at,
    integer,
    is_op,
    number,
    operand_pairs,
    other_readers,
    producer_of,
    rank_of,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder


@dataclass(frozen=True)
class UnflattenMatmul(Pass):
    """Take Reshape to [rows, K], product with [K, N], Reshape back to [..., N] as one MatMul on [..., K].

    | between the two Reshapes | becomes |
    |---|---|
    | Gemm without a bias | MatMul |
    | Gemm with a bias | MatMul, Add |
    | MatMul | MatMul |
    | MatMul, Add of a constant of rank 0 or 1 | MatMul, Add |

    A Gemm that transposes its weight gets the weight transposed, which is read when the model is saved, unless it has
    more than `max_bytes` bytes.

    The form of GPT-2's Conv1D: without the Reshapes, what splits and merges the heads around it can be seen through.
    Refuses when the product at rank 2 has another reader, when a Gemm scales, or transposes its input (its weight would
    have to change), when its bias has a row for each row of the product, and when the last shape is not provably the
    first one with N at its end.
    """

    max_bytes: int = 1 << 26

    name: ClassVar[str] = "unflatten-matmul"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        swapped: dict[ir.Value, ir.Value] = {}
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is graph and is_op(node, "Reshape"):
                    _rewrite(node, facts, recorder, editor, swapped, max_bytes=self.max_bytes)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Product:
    node: ir.Node  # the Gemm or MatMul
    bias: ir.Value | None
    last: ir.Node  # the Add, or the product itself


def _product(value: ir.Value | None) -> _Product | None:
    node = producer_of(value, "Gemm", "MatMul", "Add")
    if node is None or node.op_type == "MatMul":
        return None if node is None else _Product(node, None, node)
    if node.op_type == "Gemm":
        return _Product(node, input_at(node, 2), node)
    for product, bias in operand_pairs(node):
        inner = producer_of(product, "MatMul")
        tensor = constant_tensor(bias)
        if inner is not None and inner.graph is node.graph and tensor is not None and len(tensor.shape) <= 1:
            return _Product(inner, bias, node)
    return None


def _rewrite(
    back: ir.Node,
    facts: ShapeFacts,
    recorder: Recorder,
    editor: Editor,
    swapped: dict[ir.Value, ir.Value],
    *,
    max_bytes: int,
) -> None:
    found = _product(back.inputs[0])
    if found is None or found.node.graph is not back.graph:
        return
    flat = producer_of(found.node.inputs[0], "Reshape")
    weight = found.node.inputs[1]
    if flat is None or flat.inputs[0] is None or weight is None or rank_of(weight) != 2:
        return
    value = flat.inputs[0]
    shape, matrix, result = facts.shape(value), facts.shape(flat.outputs[0]), facts.shape(back.outputs[0])
    if shape is None or matrix is None or result is None or len(matrix) != 2 or len(shape) < 3:
        return
    if len(result) != len(shape) or matrix[-1] != shape[-1]:
        return  # another reshape than a flattening of the leading axes, such as a split into heads
    is_transposed = found.node.op_type == "Gemm" and integer(found.node, "transB", 0) == 1
    columns = (facts.shape(weight) or (None, None))[0 if is_transposed else 1]
    reason = _obstacle(found, back, columns, facts)
    if not reason and is_transposed:
        tensor = constant_tensor(weight)
        if tensor is None:
            reason = f"the Gemm transposes '{weight.name}', which is not constant"
        elif tensor.nbytes > max_bytes:
            reason = f"the Gemm transposes its weight, whose copy would have {tensor.nbytes} bytes"
    if not reason:
        wanted = (*shape[:-1], columns)
        if any(dim is None for dim in wanted) or result != wanted:
            reason = f"the shape of '{back.outputs[0].name}' is not provably that of '{value.name}' up to the last axis"
    if reason:
        recorder.refuse(found.node, reason)
        return
    if not recorder.may_apply(found.node, found.node.op_type):
        return
    output = back.outputs[0]
    name = str(output.name)
    dims = output.shape
    if is_transposed:
        if weight not in swapped:
            swapped[weight] = transposed_weight(weight, editor)
        weight = swapped[weight]
    new = editor.insert(back, "MatMul", [value, weight], name=f"{name}_product" if found.bias else name, like=output)
    if found.bias is not None:
        new = editor.insert(back, "Add", [new, found.bias], name=name, like=output)
    new.shape = None if dims is None else dims.copy()
    facts.shapes[new] = result
    editor.take_over(output, new)


def _obstacle(found: _Product, back: ir.Node, columns: Dim | None, facts: ShapeFacts) -> str:
    """Return why this product cannot be taken as it is; empty when it can."""
    gemm = found.node
    reason = other_readers(found.last.outputs[0], back)
    if not reason and found.last is not gemm:
        reason = other_readers(gemm.outputs[0], found.last)
    if reason or gemm.op_type != "Gemm":
        return reason
    if integer(gemm, "transA", 0):
        return "the Gemm transposes its input"
    if number(gemm, "alpha", 1.0) != 1 or (found.bias is not None and number(gemm, "beta", 1.0) != 1):
        return "the Gemm scales, so its weight or bias would have to change"
    bias = facts.shape(found.bias)
    if found.bias is not None and (bias is None or not _is_row(bias, columns)):
        return f"the bias '{found.bias.name}' is not provably the same for all rows"
    return ""


def _is_row(bias: tuple[Dim | None, ...], columns: Dim | None) -> bool:
    return len(bias) <= 1 and all(dim is not None and dim in (Dim(1), columns) for dim in bias)
