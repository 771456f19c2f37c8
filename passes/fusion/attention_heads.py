"""Attention on [B, H, S, D] between a head split and a head merge, as Attention on [B, S, H * D]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims, product
from passes.fusion.attention_scope import AttentionScope
from passes.matching import constant_integers, integer, integers, is_op, other_readers, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_SWAP_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class _Split:
    """`source` [B, S, H * D] split into heads, and rotated by `rotary` where that is set."""

    source: ir.Value
    heads: int
    shape: Dims  # of the source
    rotary: ir.Node | None


def absorb_heads(node: ir.Node, scope: AttentionScope) -> ir.Node:
    """Return the Attention of rank 3 where all three inputs are split and the output is merged; else `node`.

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
    merge = reason or _merge(node, facts)
    if isinstance(merge, str):
        scope.recorder.refuse(node, merge, "heads")
        return node
    if not scope.recorder.may_apply(node, "heads"):
        return node
    sources = [split.source if split.rotary is None else _flat_rotary(split, scope) for split in found]
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
    if merge.is_flat:
        scope.editor.take_over(merge.reshapes[0].outputs[0], new)
    else:
        for reshape in merge.reshapes:
            reshape.replace_input_with(0, new)
        scope.editor.drop(merge.swap)
    for split in found:
        if split.rotary is not None:
            _leave_rotary(split.rotary, split, fused, scope)
    return fused


def _refusal(splits: list[_Split | None], found: list[_Split]) -> str:
    if len(found) < 3:
        return f"the {('query', 'key', 'value')[splits.index(None)]} does not come from a head split"
    if found[1].heads != found[2].heads:
        return f"key has {found[1].heads} heads and value {found[2].heads}"
    return ""


def _split(value: ir.Value | None, facts: ShapeFacts) -> _Split | None:
    """Return the [B, S, H * D] tensor behind Transpose(Reshape(..)), with a RotaryEmbedding after it or none."""
    rotary = producer_of(value, "RotaryEmbedding")
    if rotary is not None:
        value = rotary.inputs[0]
    transpose = producer_of(value, "Transpose")
    if transpose is None or integers(transpose, "perm") != _SWAP_HEADS:
        return None
    reshape = producer_of(transpose.inputs[0], "Reshape")
    if reshape is None:
        return None
    flat, view = facts.shape(reshape.inputs[0]), facts.shape(reshape.outputs[0])
    source = reshape.inputs[0]
    if flat is None or view is None or source is None or len(flat) != 3 or len(view) != 4:
        return None
    heads = view[2]
    if None in (*flat, *view) or flat[:2] != view[:2] or heads is None or heads.fixed is None:
        return None
    return _Split(source, heads.fixed, flat, rotary) if product(view[2:]) == flat[2] else None


def _flat_rotary(split: _Split, scope: AttentionScope) -> ir.Value:
    """Return the rotated [B, S, H * D] tensor, computed where the rotation of heads was."""
    rotary = split.rotary
    assert rotary is not None
    existing = next(
        (
            reader.outputs[0]
            for reader in split.source.consumers()
            if is_op(reader, "RotaryEmbedding")
            and reader.inputs[1:] == rotary.inputs[1:]
            and reader.graph is rotary.graph
            and integer(reader, "num_heads", 0) == split.heads
        ),
        None,
    )
    if existing is not None:
        return existing
    return scope.insert(
        rotary,
        "RotaryEmbedding",
        [split.source, *rotary.inputs[1:]],
        name=str(rotary.outputs[0].name),
        shape=split.shape,
        dtype=rotary.outputs[0].dtype,
        attributes={**rotary.attributes, "num_heads": split.heads},
    )


def _leave_rotary(rotary: ir.Node, split: _Split, fused: ir.Node, scope: AttentionScope) -> None:
    """Give other readers of the rotated heads the heads of the flat rotation, and drop the rotation of heads."""
    import numpy as np

    output = rotary.outputs[0]
    scope.editor.drop(rotary)
    if rotary.graph is None:
        return
    shape = scope.facts.shape(output)
    flat = next(value for value in fused.inputs if value is not None and _rotates(value.producer(), split.source))
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


@dataclass(frozen=True, slots=True)
class _Merge:
    """Transpose, then Reshapes of the result: one to [B, S, H * D] (`is_flat`), or to [B * S, H * D] and the like."""

    swap: ir.Node
    reshapes: tuple[ir.Node, ...]
    width: Dim | None
    is_flat: bool


def _merge(node: ir.Node, facts: ShapeFacts) -> _Merge | str:
    """Return the Reshapes that merge the heads of the output, or why there are none."""
    output = node.outputs[0]
    readers = output.consumers()
    if not readers or readers[0].op_type != "Transpose" or integers(readers[0], "perm") != _SWAP_HEADS:
        return "the heads of the result are not merged"
    reason = other_readers(output, readers[0])
    if reason:
        return reason
    swapped = readers[0].outputs[0]
    reshapes = tuple(reader for reader in swapped.consumers() if is_op(reader, "Reshape"))
    if not reshapes or any(one.inputs[0] is not swapped or one.graph is not node.graph for one in reshapes):
        return "the heads of the result are not merged"
    reason = other_readers(swapped, *reshapes)
    if reason:
        return reason
    before = facts.shape(swapped)
    if before is None or None in before:
        return "the shape of the merged result is not known"
    width = product(before[2:])
    whole = (*before[:2], width)
    if not all(_is_merging(one, whole, facts) for one in reshapes):
        return "the shape of the merged result is not known"
    is_flat = len(reshapes) == 1 and facts.shape(reshapes[0].outputs[0]) == whole
    return _Merge(readers[0], reshapes, width, is_flat)


def _is_merging(reshape: ir.Node, whole: Dims, facts: ShapeFacts) -> bool:
    """Return whether the Reshape gives the same of [B, S, H * D] as of [B, S, H, D]."""
    if facts.shape(reshape.outputs[0]) == whole:
        target = constant_integers(reshape.inputs[1])
        return target is None or 0 not in target[2:]
    target = constant_integers(reshape.inputs[1])
    # a 0 copies a dimension by its place, and the two agree in the first two only
    return target is not None and 0 not in target[2:]
