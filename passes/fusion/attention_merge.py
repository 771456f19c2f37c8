"""How the heads [B, H, S, D] that an Attention gives are merged to [B, S, H * D], [B * S, H * D] or [S, B, H * D]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import Dim, product
from passes.fusion.attention_layout import Groups, heads_of, moved, regrouped
from passes.fusion.attention_scope import AttentionScope
from passes.matching import constant_integers, integers, is_op, other_readers

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

SWAP_LEADING = (1, 0, 2)
_SWAP_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class Merge:
    """The last nodes of the merge: they give [B, S, H * D], or [S, B, H * D] where it `is_swapped`, if it `is_flat`."""

    ends: tuple[ir.Node, ...]
    width: Dim | None
    is_flat: bool
    is_swapped: bool = False


def merge_of(node: ir.Node, facts: ShapeFacts) -> Merge | str:
    """Return the nodes that merge the heads of the output, or why there are none."""
    found = _by_reshapes(node, facts)
    return (_by_moves(node, facts) or found) if isinstance(found, str) else found


def leave_merge(merge: Merge, new: ir.Value, scope: AttentionScope) -> None:
    """Let what read the merged heads read `new` [B, S, H * D]."""
    first = merge.ends[0]
    if merge.is_swapped:
        batch, sequence, width = scope.facts.shapes[new]
        new = scope.insert(
            first, "Transpose", [new], name=str(new.name), shape=(sequence, batch, width), dtype=new.dtype,
            attributes={"perm": list(SWAP_LEADING)},
        )  # fmt: skip
    if merge.is_flat:
        scope.editor.take_over(first.outputs[0], new)
        return
    for reshape in merge.ends:
        old = reshape.inputs[0]
        reshape.replace_input_with(0, new)
        producer = None if old is None else old.producer()
        if producer is not None:
            scope.editor.drop(producer)


def _by_reshapes(node: ir.Node, facts: ShapeFacts) -> Merge | str:
    """Return a Transpose and one or several Reshapes of what it gives."""
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
    is_flat = len(reshapes) == 1 and facts.shape(reshapes[0].outputs[0]) == whole
    if not is_flat and not all(_keeps_target(one, is_certain=facts.shape(one.outputs[0]) == whole) for one in reshapes):
        return "the shape of the merged result is not known"
    return Merge(reshapes, width, is_flat)


def _keeps_target(reshape: ir.Node, *, is_certain: bool = False) -> bool:
    """Return whether the Reshape gives the same of [.., .., H * D] as of four axes, the first two being equal."""
    target = constant_integers(reshape.inputs[1])
    if target is None:
        return is_certain
    # a 0 copies a dimension by its place, and the two agree in the first two only
    return 0 not in target[2:]


def _by_moves(node: ir.Node, facts: ShapeFacts) -> Merge | None:
    """Return the node after any chain of moves, each read by the next alone, that puts the heads side by side."""
    value, shape = node.outputs[0], facts.shape(node.outputs[0])
    heads = None if shape is None else heads_of(shape)
    groups = heads
    while groups is not None and heads is not None:
        readers = value.consumers()
        if len(readers) != 1 or value.is_graph_output() or readers[0].graph is not node.graph:
            return None
        reader = readers[0]
        groups = _step_down(reader, groups, value, facts)
        value = reader.outputs[0]
        found = None if groups is None else _as_merge(reader, groups, heads, facts)
        if found is not None:
            return found
    return None


def _step_down(reader: ir.Node, groups: Groups, value: ir.Value, facts: ShapeFacts) -> Groups | None:
    if reader.inputs[0] is not value:
        return None
    if is_op(reader, "Transpose"):
        perm = integers(reader, "perm")
        return None if perm is None else moved(groups, perm)
    shape = facts.shape(reader.outputs[0])
    if is_op(reader, "Reshape", "Squeeze", "Unsqueeze", "Flatten") and shape is not None:
        return regrouped(groups, shape)
    return None


def _as_merge(reader: ir.Node, groups: Groups, heads: Groups, facts: ShapeFacts) -> Merge | None:
    batch, head, sequence, size = heads
    if len(groups) not in (2, 3) or groups[-1] != head + size:
        return None
    width = product([atom.dim for atom in groups[-1]])
    if len(groups) == 3:
        if groups[:2] == (batch, sequence):
            return Merge((reader,), width, True)
        return Merge((reader,), width, True, True) if groups[:2] == (sequence, batch) else None
    if not is_op(reader, "Reshape") or not _keeps_target(reader):
        return None
    if groups[0] == batch + sequence:
        return Merge((reader,), width, False)
    return Merge((reader,), width, False, True) if groups[0] == sequence + batch else None
