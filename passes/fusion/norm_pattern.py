"""What the LayerNormalization and RMSNormalization patterns share: the mean over trailing axes, and scale and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims
from passes.matching import (
    constant_integers,
    constant_number,
    input_at,
    integer,
    integers,
    is_op,
    operand_pairs,
    producer_of,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts


def mean_over_trailing_axes(node: ir.Node | None, facts: ShapeFacts) -> int | None:
    """Return the first axis, counted from the end (-1 for the last one), that a ReduceMean averages over.

    None unless it keeps the dimensions and its axes are the last ones.
    """
    if node is None or not is_op(node, "ReduceMean") or not integer(node, "keepdims", 1):
        return None
    shape = facts.shape(node.inputs[0])
    axes = integers(node, "axes") or constant_integers(input_at(node, 1))
    if not axes or (shape is None and any(axis >= 0 for axis in axes)):
        return None
    rank = 0 if shape is None else len(shape)
    negative = sorted(axis if axis < 0 else axis - rank for axis in axes)
    return negative[0] if negative == list(range(-len(negative), 0)) else None


def root_of_mean_square(value: ir.Value | None) -> tuple[ir.Value, float, tuple[ir.Node, ...]] | None:
    """Return m, epsilon and the nodes where `value` is sqrt(m + epsilon)."""
    root = producer_of(value, "Sqrt")
    add = None if root is None else producer_of(root.inputs[0], "Add")
    if root is None or add is None:
        return None
    for mean, epsilon in operand_pairs(add):
        number = constant_number(epsilon)
        if number is not None:
            return mean, number, (add, root)
    return None


def square_of(value: ir.Value | None) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """Return x and the node where `value` is x ** 2 or x * x."""
    node = producer_of(value, "Pow", "Mul")
    if node is None or node.inputs[0] is None:
        return None
    is_square = constant_number(node.inputs[1]) == 2 if node.op_type == "Pow" else node.inputs[0] is node.inputs[1]
    return (node.inputs[0], (node,)) if is_square else None


def normalized(node: ir.Node) -> tuple[ir.Value, ir.Value, tuple[ir.Node, ...]] | None:
    """Return x, r and inner nodes where `node` is x / r, or x * (1 / r)."""
    if is_op(node, "Div"):
        above, below = node.inputs
        return None if above is None or below is None else (above, below, ())
    if not is_op(node, "Mul"):
        return None
    for above, inverse in operand_pairs(node):
        reciprocal = producer_of(inverse, "Reciprocal")
        if reciprocal is not None and reciprocal.inputs[0] is not None:
            return above, reciprocal.inputs[0], (reciprocal,)
        one_over = producer_of(inverse, "Div")
        if one_over is not None and constant_number(one_over.inputs[0]) == 1 and one_over.inputs[1] is not None:
            return above, one_over.inputs[1], (one_over,)
    return None


def next_with(value: ir.Value, op_type: str, wanted: Dims, facts: ShapeFacts) -> tuple[ir.Node, ir.Value] | None:
    """Return the only reader of `value` and its other operand, where that has exactly the shape `wanted`."""
    readers = value.consumers()
    if value.is_graph_output() or len(readers) != 1 or not is_op(readers[0], op_type):
        return None
    if readers[0].graph is not (value.producer() or readers[0]).graph:
        return None
    for mine, other in operand_pairs(readers[0]):
        if mine is value and other is not value:
            shape = facts.shape(other)
            return (readers[0], other) if shape is not None and shape == wanted else None
    return None


def fixed_tail(shape: Dims | None, axis: int) -> Dims | None:
    """Return the dimensions from `axis` (negative) on, where all are integers."""
    if shape is None or len(shape) < -axis:
        return None
    tail = shape[axis:]
    return tail if all(isinstance(dim, Dim) and dim.fixed is not None for dim in tail) else None
