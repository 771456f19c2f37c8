"""Integer tensors that count by one along an axis, such as positions, from a start that need not be known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from passes.dimensions import Dim
from passes.matching import constant_array, constant_integers, constant_number, input_at, integer, is_op, producer_of
from passes.shape_rules import axes_of

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_DEPTH = 12
_TABLE_BYTES = 1 << 20
_INTEGERS = (6, 7)  # int32, int64
_FURTHEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Counting:
    """A tensor whose element at place i of `axis` is start + offset + i, whatever the places of the other axes.

    axis: counted from the last one, as -1. start: a scalar, or None for 0.
    """

    axis: int
    start: ir.Value | None
    offset: int


def counting_of(value: ir.Value | None, facts: ShapeFacts, *, depth: int = _DEPTH) -> Counting | None:
    """Return how `value` counts, or None where it is not known to."""
    if value is None or depth == 0 or value.dtype is None or value.dtype.value not in _INTEGERS:
        return None  # floats may count from a half on
    array = constant_array(value, max_bytes=_TABLE_BYTES)
    if array is not None:
        return _of_array(array)
    node = value.producer()
    rule = None if node is None or node.domain != "" else _RULES.get(node.op_type)
    return None if node is None or rule is None else rule(node, facts, depth - 1)


def _of_array(array: np.ndarray) -> Counting | None:
    import numpy as np

    if array.dtype.kind != "i" or array.size < 2:
        return None
    for axis in range(-array.ndim, 0):
        line = np.arange(array.shape[axis]).reshape((-1,) + (1,) * (-1 - axis))
        if array.shape[axis] > 1 and bool((array == array.flat[0] + line).all()):
            return Counting(axis, None, int(array.flat[0]))
    return None


def _range(node: ir.Node, facts: ShapeFacts, depth: int) -> Counting | None:
    if constant_number(node.inputs[2]) != 1:
        return None
    first = constant_number(node.inputs[0])
    return Counting(-1, node.inputs[0], 0) if first is None else Counting(-1, None, int(first))


def _kept(node: ir.Node, facts: ShapeFacts, depth: int) -> Counting | None:
    if is_op(node, "Cast") and integer(node, "to", 0) not in _INTEGERS:
        return None
    return counting_of(node.inputs[0], facts, depth=depth)


def _unsqueeze(node: ir.Node, facts: ShapeFacts, depth: int) -> Counting | None:
    inner, shape = counting_of(node.inputs[0], facts, depth=depth), facts.shape(node.outputs[0])
    axes = axes_of(node, facts)
    if inner is None or shape is None or axes is None:
        return None
    new = {axis % len(shape) for axis in axes}
    places = [axis for axis in range(len(shape)) if axis not in new]
    return replace(inner, axis=places[inner.axis] - len(shape))


def _expand(node: ir.Node, facts: ShapeFacts, depth: int) -> Counting | None:
    """The axis must stay as long as it was: one place repeated would not count."""
    inner = counting_of(node.inputs[0], facts, depth=depth)
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if inner is None or before is None or after is None:
        return None
    return inner if before[inner.axis] is not None and before[inner.axis] == after[inner.axis] else None


def _tile(node: ir.Node, facts: ShapeFacts, depth: int) -> Counting | None:
    inner, repeats = counting_of(node.inputs[0], facts, depth=depth), facts.content(node.inputs[1])
    return inner if inner is not None and repeats is not None and repeats.elements[inner.axis] == Dim(1) else None


def _moved(node: ir.Node, facts: ShapeFacts, depth: int) -> Counting | None:
    """Add or Sub of one number."""
    for index in (1, 0) if is_op(node, "Add") else (1,):
        number, varying = constant_number(node.inputs[index]), node.inputs[1 - index]
        inner = None if number is None else counting_of(varying, facts, depth=depth)
        if inner is not None and number is not None:
            return replace(inner, offset=inner.offset + int(number if is_op(node, "Add") else -number))
    return None


def is_one_throughout(difference: ir.Node, facts: ShapeFacts) -> bool:
    """Return whether a Sub computes x[1:] - x[:-1] of positions, with x[:1] - 1 put before them: 1 at each place.

    It is how the difference of neighbours is exported: Concat(x[:1] - 1, x) of S + 1 places (none where S is 0), of
    which the last S minus the first S are taken.
    """
    later, earlier = (producer_of(value, "Slice") for value in difference.inputs)
    if later is None or earlier is None or later.inputs[0] is not earlier.inputs[0]:
        return False
    joined = producer_of(later.inputs[0], "Concat")
    if joined is None or len(joined.inputs) != 2:
        return False
    first, positions = joined.inputs
    found, shape = counting_of(positions, facts), facts.shape(positions)
    if found is None or shape is None or integer(joined, "axis", 0) % len(shape) - len(shape) != found.axis:
        return False
    length = shape[found.axis]
    if length is None or not _is_one_before(first, positions, found.axis, len(shape)):
        return False
    ends = facts.content(input_at(earlier, 2))
    is_first_part = ends is not None and ends.elements == (length,) and _starts_at(earlier, 0, found.axis, len(shape))
    return is_first_part and _starts_at(later, 1, found.axis, len(shape)) and _ends_after(later, length, facts)


def _is_one_before(value: ir.Value | None, positions: ir.Value | None, axis: int, rank: int) -> bool:
    """Return whether `value` is positions[:1] - 1 along the axis."""
    sub = producer_of(value, "Sub")
    head = None if sub is None else producer_of(sub.inputs[0], "Slice")
    if sub is None or head is None or constant_number(sub.inputs[1]) != 1 or head.inputs[0] is not positions:
        return False
    return _starts_at(head, 0, axis, rank) and constant_integers(input_at(head, 2)) == [1]


def _starts_at(cut: ir.Node, start: int, axis: int, rank: int) -> bool:
    """Return whether the Slice takes each element of this axis from `start` on, up to some end, and all of others."""
    axes = constant_integers(input_at(cut, 3))
    steps = [1] if input_at(cut, 4) is None else constant_integers(input_at(cut, 4))
    return (
        axes is not None and len(axes) == 1 and axes[0] % rank - rank == axis
        and constant_integers(input_at(cut, 1)) == [start] and steps == [1]
    )  # fmt: skip


def _ends_after(cut: ir.Node, length: Dim, facts: ShapeFacts) -> bool:
    """Return whether the Slice ends at or after length + 1, where what it cuts ends."""
    value = input_at(cut, 2)
    fixed = constant_integers(value)
    if fixed is not None:
        return len(fixed) == 1 and (fixed[0] >= _FURTHEST or (length.fixed is not None and fixed[0] > length.fixed))
    while (step := producer_of(value, "Reshape", "Unsqueeze", "Squeeze", "Identity")) is not None:
        value = step.inputs[0]
    total = producer_of(value, "Add")
    for index in (0, 1) if total is not None else ():
        assert total is not None
        known = facts.content(total.inputs[index])
        if known is not None and known.elements == (length,) and constant_number(total.inputs[1 - index]) == 1:
            return True
    return False


_RULES: dict[str, Callable[[ir.Node, ShapeFacts, int], Counting | None]] = {
    "Add": _moved,
    "Cast": _kept,
    "Expand": _expand,
    "Identity": _kept,
    "Range": _range,
    "Sub": _moved,
    "Tile": _tile,
    "Unsqueeze": _unsqueeze,
}
