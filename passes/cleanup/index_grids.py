"""Index tensors that are sums of running numbers: element [i, j, ..] is i * a + j * b + .., whatever the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.cleanup.known_values import is_running
from passes.dimensions import Dim, Dims, product, total
from passes.matching import is_op
from passes.shape_rules import axes_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_DEPTH = 8

Strides = dict[int, "Dim"]
"""By axis of the index tensor: how much the index grows by one step along it. Axes that are absent add nothing."""


def strides_of(value: ir.Value | None, facts: ShapeFacts, *, depth: int = _DEPTH) -> Strides | None:
    """Return the strides of an index tensor that starts at 0; None where it is not known to be of that form."""
    node = None if value is None else value.producer()
    if node is None or depth == 0 or node.domain != "":
        return None
    axis = is_running(value, facts)
    if axis is not None:
        return {axis: Dim(1)}
    if is_op(node, "Unsqueeze", "Cast", "Identity"):
        inner = strides_of(node.inputs[0], facts, depth=depth - 1)
        shape = facts.shape(node.outputs[0])
        if inner is None or shape is None or not is_op(node, "Unsqueeze"):
            return inner if is_op(node, "Identity") else None
        axes = axes_of(node, facts)
        if axes is None:
            return None
        new = {axis % len(shape) for axis in axes}
        places = [axis for axis in range(len(shape)) if axis not in new]
        return {places[axis]: stride for axis, stride in inner.items()}
    if is_op(node, "Mul"):
        return _scaled(node, facts, depth)
    if is_op(node, "Add"):
        return _summed(node, facts, depth)
    return None


def _scaled(node: ir.Node, facts: ShapeFacts, depth: int) -> Strides | None:
    for index in (0, 1):
        factor = facts.content(node.inputs[index])
        inner = strides_of(node.inputs[1 - index], facts, depth=depth - 1)
        if factor is None or inner is None or len(factor.elements) != 1:
            continue
        own, output = facts.shape(node.inputs[1 - index]), facts.shape(node.outputs[0])
        if own is None or output is None or len(own) != len(output):
            return None
        scaled = {axis: product((stride, factor.elements[0])) for axis, stride in inner.items()}
        return {axis: stride for axis, stride in scaled.items() if stride is not None} if all(scaled.values()) else None
    return None


def _summed(node: ir.Node, facts: ShapeFacts, depth: int) -> Strides | None:
    output = facts.shape(node.outputs[0])
    result: dict[int, Dim | None] = {}
    for value in node.inputs:
        inner, own = strides_of(value, facts, depth=depth - 1), facts.shape(value)
        if inner is None or own is None or output is None:
            return None
        offset = len(output) - len(own)
        for axis, stride in inner.items():
            if own[axis] != output[axis + offset]:
                return None  # one step along this axis is repeated
            before = result.get(axis + offset)
            result[axis + offset] = stride if before is None else total(before, stride)
    return {axis: stride for axis, stride in result.items() if stride is not None} if all(result.values()) else None


def counts_in_order(strides: Strides, grid: Dims, rows: Dim | None) -> bool:
    """Return whether an index of these strides over `grid` is 0, 1, .., rows - 1 in row-major order."""
    expected: Dim | None = Dim(1)
    for axis in reversed(range(len(grid))):
        length = grid[axis]
        if axis not in strides:
            if length != Dim(1):
                return False
            continue
        if strides[axis] != expected:
            return False
        expected = product((expected, length))
    return expected is not None and expected == rows
