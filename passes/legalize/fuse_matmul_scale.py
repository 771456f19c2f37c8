"""A matrix product with the transposition of its operands and the scaling of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.legalize.contrib import has_contrib, insert_contrib, lacks_kernel, quantized_beside
from passes.matching import (
    constant_number,
    constant_tensor,
    has_reference,
    integers,
    is_op,
    other_readers,
    producer_of,
    raised_rank,
    rank_of,
    with_constant,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_FUSED = "FusedMatMul"


@dataclass(frozen=True)
class FuseMatmulScale(Pass):
    """Join MatMul, the Transpose of its operands and the Mul or Div by a number after it to com.microsoft FusedMatMul.

    A Transpose that swaps the last two axes of an operand of rank 2 or more is absorbed, and so is a number that scales
    the product or an operand. A Transpose with other readers stays, and is absorbed none the less.
    Refuses products of vectors, int8 data, a scaled value with other readers, and types without a kernel.
    """

    name: ClassVar[str] = "fuse-matmul-scale"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not has_contrib(context, _FUSED):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "MatMul"):
                    continue
                match = _match(node, facts)
                if match is None:
                    continue
                reason = _refusal(node, match, facts) or lacks_kernel(context, _FUSED, node.inputs[0])
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node):
                    _fuse(match, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Match:
    """The operands, whether each is transposed, the factor, the node that gives the result, and all that go."""

    operands: tuple[ir.Value, ir.Value]
    is_transposed: tuple[bool, bool]
    alpha: float
    last: ir.Node
    absorbed: tuple[ir.Node, ...]


def _match(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    operands, flags, alpha = [], [], 1.0
    absorbed: list[ir.Node] = []
    for value in node.inputs:
        if value is None:
            return None
        operand, is_transposed = value, False
        for _ in range(2):  # a Transpose and a factor, in either order
            scaled = _factor(operand, node)
            if scaled is not None:
                absorbed.append(scaled[2])
                operand, alpha = scaled[0], alpha * scaled[1]
            swapped = None if is_transposed else _swapped(operand, node)
            if swapped is not None:
                operand, is_transposed = swapped, True
        operands.append(operand)
        flags.append(is_transposed)
    last = node
    readers = list(node.outputs[0].consumers())
    if len(readers) == 1 and not node.outputs[0].is_graph_output() and readers[0].graph is node.graph:
        scaled = _scaled(readers[0])
        if scaled is not None and scaled[0] is node.outputs[0]:
            last, alpha = readers[0], alpha * scaled[1]
            absorbed.append(last)
    if not any(flags) and not absorbed:
        return None
    return _Match((operands[0], operands[1]), (flags[0], flags[1]), alpha, last, tuple(absorbed))


def _swapped(value: ir.Value, node: ir.Node) -> ir.Value | None:
    """Return what a Transpose of the last two axes made `value` of."""
    transpose = producer_of(value, "Transpose")
    if transpose is None or transpose.graph is not node.graph or has_reference(transpose):
        return None
    perm = integers(transpose, "perm")
    rank = rank_of(transpose.inputs[0])
    if rank is None or rank < 2:
        return None
    wanted = (*range(rank - 2), rank - 1, rank - 2)
    return transpose.inputs[0] if (perm or tuple(reversed(range(rank)))) == wanted else None


def _factor(value: ir.Value, node: ir.Node) -> tuple[ir.Value, float, ir.Node] | None:
    """Return x, c and the node of a value x * c or x / c that nothing else reads."""
    scaling = value.producer()
    if scaling is None or scaling.graph is not node.graph or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return _scaled(scaling)


def _scaled(scaling: ir.Node) -> tuple[ir.Value, float, ir.Node] | None:
    """Return x, c and the node itself, if it is x * c or x / c."""
    found = None
    if is_op(scaling, "Mul"):
        found = with_constant(scaling)
    elif is_op(scaling, "Div"):
        x, divisor = scaling.inputs[0], constant_number(scaling.inputs[1])
        found = None if x is None or not divisor or constant_tensor(x) is not None else (x, 1 / divisor)
    return None if found is None else (*found, scaling)


def _refusal(node: ir.Node, match: _Match, facts: ShapeFacts) -> str:
    shapes = [facts.shape(value) for value in match.operands]
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return "its operands are not known to be matrices"
    for scaling in match.absorbed:
        value = next(value for value in scaling.inputs if value is not None and constant_tensor(value) is None)
        reason = raised_rank([scaling], value, rank=rank_of(value)) or quantized_beside(scaling)
        if reason:
            return reason
    if match.last is not node and other_readers(node.outputs[0], match.last):
        return other_readers(node.outputs[0], match.last)
    return next(filter(None, (quantized_beside(node), quantized_beside(match.last))), "")


def _fuse(match: _Match, editor: Editor) -> None:
    attributes: dict[str, int | float] = {}
    for name, is_transposed in zip(("transA", "transB"), match.is_transposed, strict=True):
        if is_transposed:
            attributes[name] = 1
    if match.alpha != 1.0:
        attributes["alpha"] = float(match.alpha)
    output = match.last.outputs[0]
    fused = insert_contrib(editor, match.last, _FUSED, match.operands, like=output, attributes=attributes)
    editor.take_over(output, fused)
