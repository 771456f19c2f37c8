"""Gelu with the bias before it, and x * sigmoid(alpha * x), as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.legalize.contrib import has_contrib, insert_contrib, lacks_kernel, quantized_beside
from passes.matching import (
    has_reference,
    is_op,
    number,
    operand_pairs,
    other_readers,
    producer_of,
    raised_rank,
    rank_of,
    text,
    with_constant,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_BIASED = {"none": "BiasGelu", "tanh": "FastGelu"}


@dataclass(frozen=True)
class FuseBiasGelu(Pass):
    """Join Add and Gelu to com.microsoft BiasGelu or FastGelu, and x * sigmoid(alpha * x) to QuickGelu.

    The bias has the shape [N] of the last axis; Gelu's tanh approximation gives FastGelu, its exact form BiasGelu. Of
    Swish (opset 24) and of Mul(x, Sigmoid(x)), Mul(x, Sigmoid(Mul(alpha, x))) comes QuickGelu.
    Refuses when the biased sum or the sigmoid has another reader, the bias is not provably of that shape, an operand is
    int8 data, or the target has no kernel for the type.
    """

    name: ClassVar[str] = "fuse-bias-gelu"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not has_contrib(context, *_BIASED.values(), "QuickGelu"):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or has_reference(node):
                    continue
                if is_op(node, "Gelu"):
                    _join_bias(node, context, facts, recorder, editor)
                elif is_op(node, "Mul", "Swish") and has_contrib(context, "QuickGelu"):
                    _join_sigmoid(node, context, recorder, editor)
        return recorder.result()


def _join_bias(node: ir.Node, context: Context, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    op_type = _BIASED[text(node, "approximate", "none")]
    add = producer_of(node.inputs[0], "Add")
    if add is None or add.graph is not node.graph or not has_contrib(context, op_type):
        return
    total = facts.shape(add.outputs[0])
    found = [
        (x, bias)
        for x, bias in operand_pairs(add)
        if total and total[-1] is not None and facts.shape(x) == total and facts.shape(bias) == total[-1:]
    ]
    reason = "" if found else "no operand of the Add is provably a bias of the last axis"
    reason = reason or other_readers(add.outputs[0], node) or _torn(add, node)
    reason = reason or lacks_kernel(context, op_type, node.inputs[0])
    if reason:
        recorder.refuse(node, reason)
    elif recorder.may_apply(node, op_type):
        output = node.outputs[0]
        editor.take_over(output, insert_contrib(editor, node, op_type, found[0], like=output))


def _join_sigmoid(node: ir.Node, context: Context, recorder: Recorder, editor: Editor) -> None:
    found = _sigmoid_product(node)
    if found is None:
        return
    x, alpha, inner = found
    reason = ""
    for current, reader in pairwise((*inner, node)):
        reason = reason or other_readers(current.outputs[0], reader)
    reason = reason or raised_rank(inner, x, rank=rank_of(x)) or _torn(node, *inner)
    reason = reason or lacks_kernel(context, "QuickGelu", x)
    if reason:
        recorder.refuse(node, reason)
    elif recorder.may_apply(node, "QuickGelu"):
        output = node.outputs[0]
        fused = insert_contrib(editor, node, "QuickGelu", [x], like=output, attributes={"alpha": float(alpha)})
        editor.take_over(output, fused)


def _sigmoid_product(node: ir.Node) -> tuple[ir.Value, float, tuple[ir.Node, ...]] | None:
    """Return x, alpha and the inner nodes of x * sigmoid(alpha * x)."""
    if node.op_type == "Swish":
        return None if node.inputs[0] is None else (node.inputs[0], number(node, "alpha", 1.0), ())
    for x, gate in operand_pairs(node):
        sigmoid = producer_of(gate, "Sigmoid")
        if sigmoid is None or sigmoid.graph is not node.graph:
            continue
        inner = sigmoid.inputs[0]
        if inner is x:
            return x, 1.0, (sigmoid,)
        scaled = producer_of(inner, "Mul")
        if scaled is not None and scaled.graph is node.graph:
            found = with_constant(scaled)
            if found is not None and found[0] is x:
                return x, found[1], (scaled, sigmoid)
    return None


def _torn(*nodes: ir.Node) -> str:
    return next(filter(None, map(quantized_beside, nodes)), "")
