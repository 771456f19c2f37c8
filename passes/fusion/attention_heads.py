"""Attention on [B, H, S, D] between a head split and a head merge, as Attention on [B, S, H * D]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims, quotient
from passes.fusion.attention_layout import Source, source_of
from passes.fusion.attention_merge import SWAP_LEADING, leave_merge, merge_of
from passes.fusion.attention_scope import AttentionScope
from passes.matching import integer, is_op, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_SWAP_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class _Split:
    """`source` split into heads, and rotated by `rotary` where that is set."""

    source: Source
    heads: int
    shape: Dims  # [B, S, H * D]
    rotary: ir.Node | None


def absorb_heads(node: ir.Node, scope: AttentionScope) -> ir.Node:
    """Return the Attention of rank 3 where all three inputs are split and the output is merged; else `node`.

    The split may be any chain of moves (attention_layout.py), also of a tensor that holds sequence first, or query, key
    and value side by side: that costs one Transpose, and one Split, for all three.
    A RotaryEmbedding between split and Attention is moved to [B, S, H * D] too. Where something else reads the split or
    rotated heads, an output of the graph for one, these stay beside it.
    """
    facts, output = scope.facts, node.outputs[0]
    if "q_num_heads" in node.attributes:
        return node
    splits = [_split(value, facts) for value in node.inputs[:3]]
    if all(split is None for split in splits):
        return node
    found = [split for split in splits if split is not None]
    reason = _refusal(splits, found)
    merge = reason or merge_of(node, facts)
    if isinstance(merge, str):
        scope.recorder.refuse(node, merge, "heads")
        return node
    if not scope.recorder.may_apply(node, "heads"):
        return node
    made: dict[ir.Value, ir.Value] = {}
    flats = [_flat(split, node, scope, made) for split in found]
    sources = [
        flat if split.rotary is None else _flat_rotary(flat, split, scope)
        for flat, split in zip(flats, found, strict=True)
    ]
    batch, length, width = found[0].shape[0], found[0].shape[1], merge.width
    new = scope.insert(
        node,
        "Attention",
        [*sources, *node.inputs[3:]],
        name=str(output.name),
        shape=(batch, length, width),
        dtype=output.dtype,
        attributes={**node.attributes, "q_num_heads": found[0].heads, "kv_num_heads": found[1].heads},
        outputs=len(node.outputs),
    )
    fused = new.producer()
    assert fused is not None
    for old, present in list(zip(node.outputs, fused.outputs, strict=True))[1:]:
        present.type, present.shape = old.type, None if old.shape is None else old.shape.copy()
        old_shape = facts.shape(old)
        if old_shape is not None:
            facts.shapes[present] = old_shape
        name, old.name = old.name, None
        old.replace_all_uses_with(present, replace_graph_outputs=True)
        present.name = name
    leave_merge(merge, new, scope)
    for flat, split in zip(flats, found, strict=True):
        if split.rotary is not None:
            _leave_rotary(split.rotary, flat, split, fused, scope)
    return fused


def _refusal(splits: list[_Split | None], found: list[_Split]) -> str:
    if len(found) < 3:
        return f"the {('query', 'key', 'value')[splits.index(None)]} does not come from a head split"
    if found[1].heads != found[2].heads:
        return f"key has {found[1].heads} heads and value {found[2].heads}"
    return ""


def _split(value: ir.Value | None, facts: ShapeFacts) -> _Split | None:
    """Return what holds the heads `value` side by side, with a RotaryEmbedding after it or none."""
    rotary = producer_of(value, "RotaryEmbedding")
    if rotary is not None:
        value = rotary.inputs[0]
    shape, source = facts.shape(value), source_of(value, facts)
    if shape is None or source is None or shape[1] is None or shape[1].fixed is None:
        return None
    batch, sequence = (source.shape[1], source.shape[0]) if source.is_swapped else source.shape[:2]
    width = quotient(source.shape[2], Dim(source.parts))
    return _Split(source, shape[1].fixed, (batch, sequence, width), rotary)


def _flat(split: _Split, node: ir.Node, scope: AttentionScope, made: dict[ir.Value, ir.Value]) -> ir.Value:
    """Return the tensor [B, S, H * D], made right after the source where that is not it already."""
    source, value = split.source, split.source.value
    name, batch_first = str(value.name), (*split.shape[:2], source.shape[2])
    if source.is_swapped:
        if value not in made:
            made[value] = scope.insert(
                node,
                "Transpose",
                [value],
                name=f"{name}_batch_first",
                shape=batch_first,
                dtype=value.dtype,
                attributes={"perm": list(SWAP_LEADING)},
            )
            _move_behind(value, made[value], node)
        value = made[value]
    if source.parts == 1:
        return value
    if value not in made:
        made[value] = scope.insert(
            node,
            "Split",
            [value],
            name=f"{name}_part",
            shape=split.shape,
            dtype=value.dtype,
            attributes={"axis": -1, "num_outputs": source.parts},
            outputs=source.parts,
        )
        _move_behind(value, made[value], node)
    maker = made[value].producer()
    assert maker is not None
    for part in maker.outputs:
        scope.state_shape(part, split.shape)
    return maker.outputs[source.index]


def _move_behind(value: ir.Value, new: ir.Value, node: ir.Node) -> None:
    """Move the node that makes `new`, put before `node`, to right behind the one that makes `value`."""
    maker, producer, graph = new.producer(), value.producer(), node.graph
    assert maker is not None
    assert graph is not None
    graph.remove(maker)
    if producer is not None and producer.graph is graph:
        graph.insert_after(producer, maker)
    else:
        graph.insert_before(graph.node(0), maker)


_ROTATION = ("interleaved", "rotary_embedding_dim")


def _flat_rotary(flat: ir.Value, split: _Split, scope: AttentionScope) -> ir.Value:
    """Return the rotated [B, S, H * D] tensor, computed where the rotation of heads was."""
    rotary = split.rotary
    assert rotary is not None
    existing = next(
        (
            reader.outputs[0]
            for reader in flat.consumers()
            if is_op(reader, "RotaryEmbedding")
            and reader.inputs[1:] == rotary.inputs[1:]
            and reader.graph is rotary.graph
            and integer(reader, "num_heads", 0) == split.heads
            and all(integer(reader, name, 0) == integer(rotary, name, 0) for name in _ROTATION)
        ),
        None,
    )
    if existing is not None:
        return existing
    return scope.insert(
        rotary,
        "RotaryEmbedding",
        [flat, *rotary.inputs[1:]],
        name=str(rotary.outputs[0].name),
        shape=split.shape,
        dtype=rotary.outputs[0].dtype,
        attributes={**rotary.attributes, "num_heads": split.heads},
    )


def _leave_rotary(rotary: ir.Node, source: ir.Value, split: _Split, fused: ir.Node, scope: AttentionScope) -> None:
    """Give other readers of the rotated heads the heads of the flat rotation, and drop the rotation of heads."""
    import numpy as np

    output = rotary.outputs[0]
    scope.editor.drop(rotary)
    if rotary.graph is None:
        return
    shape = scope.facts.shape(output)
    flat = next(value for value in fused.inputs if value is not None and _rotates(value.producer(), source))
    size = split.shape[2]
    width = -1 if size is None or size.fixed is None else size.fixed // split.heads
    target = scope.editor.constant(np.array([0, 0, split.heads, width], dtype=np.int64), f"{output.name}_split")
    view = None if shape is None else (shape[0], shape[2], shape[1], shape[3])
    heads = scope.insert(rotary, "Reshape", [flat, target], name=f"{output.name}_view", shape=view, dtype=output.dtype)
    swapped = scope.insert(
        rotary, "Transpose", [heads], name=str(output.name), shape=shape, dtype=output.dtype,
        attributes={"perm": list(_SWAP_HEADS)},
    )  # fmt: skip
    scope.editor.take_over(output, swapped)


def _rotates(node: ir.Node | None, source: ir.Value) -> bool:
    return is_op(node, "RotaryEmbedding") and node is not None and node.inputs[0] is source
