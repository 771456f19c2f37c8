"""Rotary position embedding as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.dimensions import Dim
from passes.editing import Editor
from passes.fusion.rotary_caches import CacheWriter
from passes.fusion.rotary_pattern import RotaryMatch, match_rotary, part_of
from passes.matching import first_shared, input_at, integer, is_op, opset_of, other_readers
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET_OF_ROTARY_EMBEDDING = 23
_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16")


@dataclass(frozen=True)
class FuseRotaryEmbedding(Pass):
    """Raise x * cos + concat(-x[.., D/2:], x[.., :D/2]) * sin to the RotaryEmbedding operator of opset 23.

    x is [B, H, S, D]; cos and sin are tables of full width whose halves are equal, by the way they are computed
    (Concat of one tensor with itself, then Cos, Sin, Cast, a constant factor, Unsqueeze, Gather or Slice) or because a
    constant table shows it. They are computed at half width, flattened to [B, S, D/2] and expanded to the whole batch
    once for all layers. A rotation of the first features only, joined with the rest by Concat, becomes
    `rotary_embedding_dim`. The same expansion repairs RotaryEmbedding nodes of an exporter that gives them one cache
    for all of the batch, [1, S, D/2], which runtimes refuse for a batch of 2 or more.
    Refuses double, tables of another shape, unequal halves, and rotations whose inner values are read elsewhere.
    """

    name: ClassVar[str] = "fuse-rotary-embedding"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        scope = _Scope(facts, editor, recorder, opset_of(model) >= OPSET_OF_ROTARY_EMBEDDING)
        for graph in model.graphs():
            scope.caches = CacheWriter(facts, editor)
            for node in list(graph):
                if node.graph is not graph:
                    continue
                if is_op(node, "Add"):
                    _raise(node, scope)
                elif is_op(node, "RotaryEmbedding"):
                    _repair(node, scope)
        return recorder.result()


@dataclass(slots=True)
class _Scope:
    facts: ShapeFacts
    editor: Editor
    recorder: Recorder
    is_recent: bool
    caches: CacheWriter = None  # type: ignore[assignment]  # one for each graph


def _raise(node: ir.Node, scope: _Scope) -> None:
    match = match_rotary(node, scope.facts)
    if match is None:
        return
    data = scope.facts.shape(match.data)
    reason = _refusal(node, match, scope)
    if reason or data is None:
        scope.recorder.refuse(node, reason)
        return
    if not scope.recorder.may_apply(node, "rotate-half"):
        return
    caches = [scope.caches.cache(node, table, data[0]) for table in (match.cosine, match.sine)]
    output = node.outputs[0]
    new = scope.editor.insert(node, "RotaryEmbedding", [match.data, *caches], name=str(output.name), like=output)
    scope.facts.shapes[new] = data
    scope.editor.take_over(output, new)
    _widen(new, scope)


def _refusal(node: ir.Node, match: RotaryMatch, scope: _Scope) -> str:
    if not scope.is_recent:
        return f"RotaryEmbedding needs opset {OPSET_OF_ROTARY_EMBEDDING}"
    dtype = match.data.dtype
    if dtype is None or dtype.name not in _TYPES:
        return f"'{match.data.name}' is of type {dtype}, RotaryEmbedding takes {', '.join(_TYPES)}"
    data = scope.facts.shape(match.data)
    if data is None or len(data) != 4 or scope.facts.shape(node.outputs[0]) != data:
        return f"'{match.data.name}' is not known to be of the shape [batch, heads, sequence, head]"
    for table in (match.cosine, match.sine):
        reason = scope.caches.reason_against(table, data)
        if reason:
            return reason
    return first_shared(match.nodes, node)


def _widen(rotated: ir.Value, scope: _Scope) -> None:
    """Take up the features that are not rotated: Concat(RotaryEmbedding(x[.., :R]), x[.., R:])."""
    node = rotated.producer()
    assert node is not None
    part = part_of(node.inputs[0], scope.facts)
    readers = rotated.consumers()
    if part is None or part.start != 0 or len(readers) != 1 or not is_op(readers[0], "Concat"):
        return
    concat = readers[0]
    rest = part_of(input_at(concat, 1), scope.facts)
    rank = len(scope.facts.shape(rotated) or ())
    if rest is None or len(concat.inputs) != 2 or concat.inputs[0] is not rotated or rest.source is not part.source:
        return
    if (rest.start, rest.end) != (part.end, part.width) or integer(concat, "axis", 0) not in (-1, rank - 1):
        return
    reason = other_readers(rotated, concat)
    if reason:
        scope.recorder.refuse(node, reason, "partial")
        return
    if concat.graph is not node.graph or not scope.recorder.may_apply(node, "partial"):
        return
    attributes: dict[str, Any] = {**node.attributes, "rotary_embedding_dim": part.end}
    output = concat.outputs[0]
    new = scope.editor.insert(
        concat, "RotaryEmbedding", [part.source, *node.inputs[1:]], name=str(output.name), attributes=attributes,
        like=output,
    )  # fmt: skip
    shape = scope.facts.shape(output)
    if shape is not None:
        scope.facts.shapes[new] = shape
    scope.editor.take_over(output, new)


def _repair(node: ir.Node, scope: _Scope) -> None:
    data = scope.facts.shape(node.inputs[0])
    if input_at(node, 3) is not None or data is None or data[0] is None or data[0] == Dim(1):
        return
    short = []
    for index in (1, 2):
        shape = scope.facts.shape(node.inputs[index])
        if shape is not None and len(shape) == 3 and shape[0] == Dim(1):
            short.append(index)
    if not short:
        return
    if not scope.caches.source_of(data[0]):
        scope.recorder.refuse(node, "its caches are of batch 1, and no input of the model has the batch size", "batch")
        return
    if not scope.recorder.may_apply(node, "batch"):
        return
    for index in short:
        cache = node.inputs[index]
        assert cache is not None
        node.replace_input_with(index, scope.caches.full_batch(node, cache, data[0]))
