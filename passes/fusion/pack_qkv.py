"""Query, key and value projections as one matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.fusion.projection import Projection, pack, packing_refusal, projection_of
from passes.matching import is_op, producer_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class PackQkv(Pass):
    """Compute an Attention's query, key and value by one MatMul and a Split, where all three project the same tensor.

    x [B, S, K] @ [K, Nq], [K, Nk], [K, Nv] becomes x @ [K, Nq + Nk + Nv]; a bias that only some have is 0 for the
    others. A RotaryEmbedding between projection and Attention stays. Where key and value alone project one tensor
    (cross attention), they are packed if one has a bias: without it no node would be saved. The packed weights are read
    when the model is saved, one at a time, so that they take no memory.
    Refuses when the product before a bias has another reader, a weight or bias is not a constant of the fitting shape,
    or the packed weight would have more than `max_bytes` bytes: it is stored anew, while the weights that no pass
    changes are linked or copied by the file system.
    """

    max_bytes: int = 1 << 26

    name: ClassVar[str] = "pack-qkv"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            place = {node: index for index, node in enumerate(graph)}
            for node in list(graph):
                if node.graph is graph and is_op(node, "Attention") and "q_num_heads" in node.attributes:
                    _pack(node, place, facts, recorder, editor, max_bytes=self.max_bytes)
        return recorder.result()


def _projection(value: ir.Value | None) -> Projection | None:
    rotary = producer_of(value, "RotaryEmbedding")
    return projection_of(value if rotary is None else rotary.inputs[0])


def _packable(node: ir.Node) -> list[Projection]:
    """Return the projections that share their source: all three, or those of key and value; none where it is no use."""
    found = [_projection(value) for value in node.inputs[:3]]
    if None in found[1:]:
        return []
    known = [projection for projection in found if projection is not None]
    if len(known) == 3 and all(projection.source is known[0].source for projection in known):
        return known
    key, value = known[-2:]
    has_gain = key.source is value.source and (key.bias is not None or value.bias is not None)
    return [key, value] if has_gain else []


def _pack(
    node: ir.Node, place: dict[ir.Node, int], facts: ShapeFacts, recorder: Recorder, editor: Editor, *, max_bytes: int
) -> None:
    parts = _packable(node)
    if not parts:
        return
    same = "two of query, key and value are the same projection"
    reason = packing_refusal(parts, node.graph, facts, max_bytes=max_bytes, same=same)
    if reason:
        recorder.refuse(node, reason)
        return
    if not recorder.may_apply(node):
        return
    first = min((part.nodes[0] for part in parts), key=lambda one: place[one])
    pack(parts, first, "qkv", facts, editor)
