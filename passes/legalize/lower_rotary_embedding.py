"""RotaryEmbedding whose one cache serves the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim
from passes.editing import Editor
from passes.legalize.contrib import has_contrib, insert_contrib, lacks_kernel
from passes.matching import has_reference, input_at, integer, is_op
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_OPERATOR = "RotaryEmbedding"


@dataclass(frozen=True)
class LowerRotaryEmbedding(Pass):
    """Lower RotaryEmbedding with caches [1, S, D / 2] to com.microsoft RotaryEmbedding with caches [S, D / 2].

    ONNX Runtime's standard kernel wants the caches once for each batch; its own takes one for all, and the position 0
    to begin at. Caches are squeezed once, whatever number of nodes reads them. Caches of [B, S, D / 2] and caches with
    position ids stay with the standard operator.
    Refuses an input of unknown rank, caches of another length than the input, and types without a kernel.
    """

    name: ClassVar[str] = "lower-rotary-embedding"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not has_contrib(context, _OPERATOR):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        squeezed: dict[tuple[object, ir.Value], ir.Value] = {}
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, _OPERATOR) or has_reference(node):
                    continue
                if not _serves_all(node, facts):
                    continue
                reason = _refusal(node, facts) or lacks_kernel(context, _OPERATOR, node.inputs[0])
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node):
                    _lower(node, facts, editor, squeezed)
        return recorder.result()


def _serves_all(node: ir.Node, facts: ShapeFacts) -> bool:
    """Return whether both caches are [1, S, D / 2], beside a batch that may be larger."""
    caches = [facts.shape(input_at(node, index)) for index in (1, 2)]
    data = facts.shape(node.inputs[0])
    if input_at(node, 3) is not None or (data is not None and data[0] == Dim(1)):
        return False
    return all(cache is not None and len(cache) == 3 and cache[0] == Dim(1) for cache in caches)


def _refusal(node: ir.Node, facts: ShapeFacts) -> str:
    data, cosines, sines = (facts.shape(input_at(node, index)) for index in range(3))
    if data is None or cosines is None or len(data) not in (3, 4):
        return "its input has not rank 3 or 4"
    if cosines != sines or None in cosines or cosines[1] != data[-2 if len(data) == 4 else 1]:
        return "the caches are not provably as long as the input"
    if len(data) == 3 and not integer(node, "num_heads", 0):
        return "the number of heads is not known"
    return ""


def _lower(node: ir.Node, facts: ShapeFacts, editor: Editor, squeezed: dict[tuple[object, ir.Value], ir.Value]) -> None:
    import numpy as np

    caches = []
    for index in (1, 2):
        cache = input_at(node, index)
        assert cache is not None
        if (node.graph, cache) not in squeezed:
            axes = editor.constant(np.array([0], np.int64), "first")
            dims = None if cache.shape is None else [d if isinstance(d, int) else d.value for d in cache.shape][1:]
            name = f"{cache.name}_rows"
            squeezed[node.graph, cache] = editor.insert(
                node, "Squeeze", [cache, axes], name=name, dtype=cache.dtype, shape=dims
            )
        caches.append(squeezed[node.graph, cache])
    attributes = {"interleaved": integer(node, "interleaved", 0)}
    size = integer(node, "rotary_embedding_dim", 0)
    data, output = facts.shape(node.inputs[0]), node.outputs[0]
    assert data is not None
    heads = integer(node, "num_heads", 0) if len(data) == 3 else data[1].fixed if data[1] is not None else None
    if heads is not None and (size or len(data) == 3):
        attributes |= {"num_heads": heads, "rotary_embedding_dim": size}
    begin = editor.constant(np.array([0], np.int64), "first")
    fused = insert_contrib(
        editor, node, _OPERATOR, [node.inputs[0], begin, *caches], like=output, attributes=attributes
    )
    editor.take_over(output, fused)
