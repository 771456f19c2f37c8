"""The gate and up projections of a gated feed-forward layer as one matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.fusion.projection import Projection, pack, packing_refusal, projection_of
from passes.matching import is_op, operand_pairs, opset_of, producer_of
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_OPSET_OF_SPLIT = 18

_ACTIVATIONS = ("Gelu", "Swish", "Sigmoid", "Relu", "Elu", "LeakyRelu", "HardSwish", "HardSigmoid", "Mish", "Tanh")


@dataclass(frozen=True)
class PackGateUp(Pass):
    """Compute the two projections of a gated layer, act(x @ Wg) * (x @ Wu), by one MatMul and a Split.

    act is an activation operator, or g * Sigmoid(g). Biases are packed as well. No node is saved, and the weights are
    stored anew, so this is not part of the default pipeline: it is for devices on which one large product takes less
    time than two. The packed weights are read when the model is saved, as those of `pack-qkv`.
    Refuses when the product before a bias has another reader, a weight or bias is not a constant of the fitting shape,
    or the packed weight would have more than `max_bytes` bytes.
    """

    max_bytes: int = 1 << 28

    name: ClassVar[str] = "pack-gate-up"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            place = {node: index for index, node in enumerate(graph)}
            for node in list(graph):
                parts = _parts(node) if node.graph is graph else ()
                if not parts:
                    continue
                same = "gate and up are the same projection"
                reason = packing_refusal(parts, graph, facts, max_bytes=self.max_bytes, same=same)
                if opset_of(model) < _OPSET_OF_SPLIT:
                    reason = f"Split into a number of parts needs opset {_OPSET_OF_SPLIT}"
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node):
                    first = min((part.nodes[0] for part in parts), key=lambda one: place[one])
                    pack(parts, first, "gate_up", facts, editor)
        return recorder.result()


def _parts(node: ir.Node) -> tuple[Projection, ...]:
    """Return gate and up of the product of both, which project one tensor; nothing where it is none."""
    if not is_op(node, "Mul"):
        return ()
    for active, other in operand_pairs(node):
        gate, up = projection_of(_gate(active)), projection_of(other)
        if gate is None or up is None or gate.source is not up.source:
            continue
        if gate.output is not up.output:  # g * act(g) is no gated layer
            return gate, up
    return ()


def _gate(active: ir.Value) -> ir.Value | None:
    """Return what an activation is applied to."""
    activation = producer_of(active, *_ACTIVATIONS)
    if activation is not None:
        return activation.inputs[0]
    product = producer_of(active, "Mul")
    for gate, factor in operand_pairs(product) if product is not None else ():
        sigmoid = producer_of(factor, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is gate:
            return gate
    return None
