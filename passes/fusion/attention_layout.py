"""Where the heads [B, H, S, D] of an Attention come from, however they were moved: followed axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims, product, quotient
from passes.matching import constant_integers, constant_tensor, integer, integers, is_op

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_ONE = Dim(1)


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of an axis: B, H, S or D of the heads, or one chosen place (`index`) of an axis that was left out."""

    name: str
    dim: Dim
    index: int | None = None


Groups = tuple[tuple[Atom, ...], ...]
"""For each axis of a tensor, the atoms it runs through, the slowest first. Atoms of one element are left out."""


@dataclass(frozen=True, slots=True)
class Source:
    """`value` of rank 3: the heads side by side in its last axis, or `parts` such tensors, of which `index` counts."""

    value: ir.Value
    shape: Dims
    is_swapped: bool  # [S, B, ..] instead of [B, S, ..]
    parts: int = 1
    index: int = 0


def heads_of(shape: Dims) -> Groups | None:
    """Return the groups of a tensor [B, H, S, D]; None where a dimension is unknown."""
    if len(shape) != 4:
        return None
    return _groups("bhsd", shape)


def _groups(names: str, shape: Dims) -> Groups | None:
    groups = []
    for name, dim in zip(names, shape, strict=True):
        if dim is None:
            return None
        groups.append((Atom(name, dim),) if dim != _ONE else ())
    return tuple(groups)


def source_of(value: ir.Value | None, facts: ShapeFacts) -> Source | None:
    """Return the tensor furthest up that holds these heads side by side, or None."""
    shape = facts.shape(value)
    groups = None if shape is None else heads_of(shape)
    found = None
    wanted = groups
    while value is not None and groups is not None and wanted is not None:
        found = _as_source(value, groups, wanted, facts) or found
        value, groups = _step_up(value, groups, facts)
    return found


def batch_and_heads(value: ir.Value, facts: ShapeFacts) -> tuple[Dim, Dim] | None:
    """Return B and H of a tensor [B * H, S, D], as the furthest tensor that holds the heads side by side has them."""
    shape = facts.shape(value)
    groups = None if shape is None or len(shape) != 3 else _groups("nsd", shape)
    if shape is None or groups is None:
        return None
    found = None
    whole, (_, sequence, size) = shape[0], groups
    at: ir.Value | None = value
    while at is not None and groups is not None:
        last = groups[-1] if len(groups) == 3 else None
        heads = None if last is None else last[: len(last) - len(size)]
        if last is not None and heads is not None and last[len(heads) :] == size and sequence in groups[:2]:
            heads = tuple(atom for atom in heads if atom.index is None)
            count = product([atom.dim for atom in heads])
            batch = quotient(whole, count)
            if batch is not None and count is not None and all(atom.name in "nh" for atom in heads):
                found = batch, count
        at, groups = _step_up(at, groups, facts)
    return found


def _as_source(value: ir.Value, groups: Groups, heads: Groups, facts: ShapeFacts) -> Source | None:
    shape = facts.shape(value)
    if shape is None or len(groups) != 3 or None in shape:
        return None
    batch, head, sequence, size = heads
    last, parts, index = groups[2], 1, 0
    if last and last[0].index is not None:
        chosen, last = last[0], last[1:]
        if chosen.dim.fixed is None or chosen.index is None:
            return None
        parts, index = chosen.dim.fixed, chosen.index
    if last != head + size:
        return None
    if groups[:2] == (batch, sequence):
        return Source(value, shape, False, parts, index)
    return Source(value, shape, True, parts, index) if groups[:2] == (sequence, batch) else None


def _step_up(value: ir.Value, groups: Groups, facts: ShapeFacts) -> tuple[ir.Value | None, Groups | None]:
    """Return the tensor that `value` is a move or a part of, and what its axes run through."""
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return None, None
    data, shape = node.inputs[0], facts.shape(node.inputs[0])
    if shape is None:
        return None, None
    if is_op(node, "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return data, regrouped(groups, shape)
    if is_op(node, "Transpose"):
        perm = integers(node, "perm")
        return (None, None) if perm is None else (data, moved(groups, _inverse(perm)))
    if is_op(node, "Gather"):
        return data, _before_gather(node, groups, shape)
    if is_op(node, "Split"):
        return data, _before_split(node, value, groups, shape, facts)
    return None, None


def moved(groups: Groups, perm: Sequence[int]) -> Groups:
    """Return the groups after a Transpose."""
    return tuple(groups[axis] for axis in perm)


def _inverse(perm: Sequence[int]) -> list[int]:
    return [list(perm).index(axis) for axis in range(len(perm))]


def regrouped(groups: Groups, shape: Dims) -> Groups | None:
    """Return what the axes of `shape`, a view of the same elements, run through; None if that divides an atom.

    B and H as one atom "n" are told apart where an axis ends between them.
    """
    atoms = [atom for group in groups for atom in group]
    result = []
    for dim in shape:
        group: list[Atom] = []
        rest = dim
        while rest != _ONE:
            left = quotient(rest, atoms[0].dim) if atoms and rest is not None else None
            if left is None and atoms and atoms[0].name == "n":
                inner = quotient(atoms[0].dim, rest)
                if inner is None or rest is None:
                    return None
                atoms[:1] = [Atom("b", rest), Atom("h", inner)]
                left = _ONE
            if left is None:
                return None
            group.append(atoms.pop(0))
            rest = left
        result.append(tuple(group))
    return None if atoms else tuple(result)


def _chosen(index: int, dim: Dim | None) -> tuple[Atom, ...] | None:
    """Return the group of an axis of which one place is taken."""
    if dim is None or dim.fixed is None or not -dim.fixed <= index < dim.fixed:
        return None
    return () if dim == _ONE else (Atom("part", dim, index % dim.fixed),)


def _before_gather(node: ir.Node, groups: Groups, shape: Dims) -> Groups | None:
    """Gather(data, one scalar) leaves an axis out."""
    tensor, places = constant_tensor(node.inputs[1]), constant_integers(node.inputs[1])
    if tensor is None or len(tensor.shape) != 0 or places is None or len(shape) != len(groups) + 1:
        return None
    axis = integer(node, "axis", 0) % len(shape)
    chosen = _chosen(places[0], shape[axis])
    return None if chosen is None else (*groups[:axis], chosen, *groups[axis:])


def _before_split(node: ir.Node, value: ir.Value, groups: Groups, shape: Dims, facts: ShapeFacts) -> Groups | None:
    """Split into parts of one place each."""
    axis = integer(node, "axis", 0) % len(shape)
    part = facts.shape(value)
    if part is None or part[axis] != _ONE or shape[axis] != Dim(len(node.outputs)):
        return None
    chosen = _chosen(node.outputs.index(value), shape[axis])
    return None if chosen is None else (*groups[:axis], chosen, *groups[axis + 1 :])
