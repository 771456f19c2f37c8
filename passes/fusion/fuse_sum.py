"""A bias and a residual added in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import broadcasts_into
from passes.editing import Editor
from passes.matching import FLOATS, constant_tensor, is_op, operand_pairs, other_readers, producer_of
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseSum(Pass):
    """Join (MatMul + bias) + residual to Sum(MatMul, bias, residual), added in the same order.

    The form of a transformer's residual connection: it says in one operator what a runtime does in one sweep over the
    data; `expand-sum` takes it apart for one that does not. Refuses when the biased product has another reader, the
    bias does not provably broadcast to the product, or they are not floating-point numbers, which alone Sum takes.
    """

    name: ClassVar[str] = "fuse-sum"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "Add"):
                    continue
                found = _biased(node)
                if found is None:
                    continue
                product, bias, residual, inner = found
                reason = other_readers(inner.outputs[0], node)
                shape = facts.shape(product)
                if not reason and not (
                    broadcasts_into(facts.shape(bias), shape) and broadcasts_into(facts.shape(residual), shape)
                ):
                    reason = "bias and residual do not provably broadcast to the product"
                dtype = bias.dtype  # a constant's is known; product and residual have the same
                if not reason and (dtype is None or dtype.name not in FLOATS):
                    reason = f"Sum does not take {'numbers of unknown type' if dtype is None else dtype.name}"
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node):
                    output = node.outputs[0]
                    new = editor.insert(node, "Sum", [product, bias, residual], name=str(output.name), like=output)
                    editor.take_over(output, new)
        return recorder.result()


def _biased(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Node] | None:
    """Return product, bias, residual and the inner Add of (product + bias) + residual."""
    for sum_side, residual in operand_pairs(node):
        inner = producer_of(sum_side, "Add")
        if inner is None or inner.graph is not node.graph or constant_tensor(residual) is not None:
            continue
        for product, bias in operand_pairs(inner):
            if producer_of(product, "MatMul") is not None and constant_tensor(bias) is not None:
                return product, bias, residual, inner
    return None
