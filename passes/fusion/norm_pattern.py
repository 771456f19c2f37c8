"""What the LayerNormalization and RMSNormalization patterns share: the mean over trailing axes, and scale and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims
from passes.matching import (
    constant_array,
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

    from passes.editing import Editor
    from passes.shapes import ShapeFacts


def mean_over_trailing_axes(node: ir.Node | None, facts: ShapeFacts) -> int | None:
    """Return the first axis, counted from the end (-1 for the last one), that a ReduceMean averages over.

    None unless it keeps the dimensions and its axes are the last ones.
    """
    negative = mean_axes(node, facts)
    return negative[0] if negative and negative == list(range(-len(negative), 0)) else None


def mean_axes(node: ir.Node | None, facts: ShapeFacts) -> list[int] | None:
    """Return the sorted axes, counted from the end, of a ReduceMean that keeps the dimensions; None for another."""
    if node is None or not is_op(node, "ReduceMean") or not integer(node, "keepdims", 1):
        return None
    shape = facts.shape(node.inputs[0])
    axes = integers(node, "axes") or constant_integers(input_at(node, 1))
    if not axes or (shape is None and any(axis >= 0 for axis in axes)):
        return None
    rank = 0 if shape is None else len(shape)
    return sorted(axis if axis < 0 else axis - rank for axis in axes)


def mean_and_epsilon(value: ir.Value | None) -> tuple[ir.Value, float, tuple[ir.Node, ...]] | None:
    """Return m, epsilon and the node where `value` is m + epsilon."""
    add = producer_of(value, "Add")
    if add is None:
        return None
    for mean, epsilon in operand_pairs(add):
        number = constant_number(epsilon)
        if number is not None:
            return mean, number, (add,)
    return None


def square_of(value: ir.Value | None) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """Return x and the node where `value` is x ** 2 or x * x."""
    node = producer_of(value, "Pow", "Mul")
    if node is None or node.inputs[0] is None:
        return None
    is_square = constant_number(node.inputs[1]) == 2 if node.op_type == "Pow" else node.inputs[0] is node.inputs[1]
    return (node.inputs[0], (node,)) if is_square else None


def normalized(node: ir.Node) -> tuple[ir.Value, ir.Value, tuple[ir.Node, ...]] | None:
    """Return x, v and inner nodes where `node` is x / sqrt(v).

    The root may be Sqrt or Pow by 0.5, and its inverse Div, Reciprocal, 1 / root, the root of either, or Pow by -0.5.
    """
    if is_op(node, "Div"):
        root = _root_of(node.inputs[1])
        above = node.inputs[0]
        return None if above is None or root is None else (above, *root)
    if not is_op(node, "Mul"):
        return None
    for above, inverse in operand_pairs(node):
        found = inverse_root_of(inverse)
        if found is not None:
            return above, *found
    return None


Root = tuple["ir.Value", "tuple[ir.Node, ...]"]


def _root_of(value: ir.Value | None) -> Root | None:
    """Return v and the node where `value` is sqrt(v)."""
    node = producer_of(value, "Sqrt", "Pow")
    if node is None or node.inputs[0] is None:
        return None
    is_root = node.op_type == "Sqrt" or constant_number(node.inputs[1]) == 0.5
    return (node.inputs[0], (node,)) if is_root else None


def _inverse_of(value: ir.Value | None) -> Root | None:
    """Return v and the node where `value` is 1 / v."""
    reciprocal = producer_of(value, "Reciprocal")
    if reciprocal is not None and reciprocal.inputs[0] is not None:
        return reciprocal.inputs[0], (reciprocal,)
    one_over = producer_of(value, "Div")
    if one_over is not None and constant_number(one_over.inputs[0]) == 1 and one_over.inputs[1] is not None:
        return one_over.inputs[1], (one_over,)
    return None


def inverse_root_of(value: ir.Value | None) -> Root | None:
    """Return v and the nodes where `value` is 1 / sqrt(v)."""
    power = producer_of(value, "Pow")
    if power is not None and power.inputs[0] is not None and constant_number(power.inputs[1]) == -0.5:
        return power.inputs[0], (power,)
    for outer, inner in ((_inverse_of, _root_of), (_root_of, _inverse_of)):
        first = outer(value)
        second = None if first is None else inner(first[0])
        if first is not None and second is not None:
            return second[0], (*second[1], *first[1])
    return None


@dataclass(frozen=True, slots=True)
class ArithmeticNorm:
    """The value that is normalized, over which axes (from the end), and the nodes before the last one."""

    value: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    nodes: tuple[ir.Node, ...]


def arithmetic_norm(node: ir.Node, facts: ShapeFacts) -> ArithmeticNorm | None:
    """Return what `node` normalizes where it is (x - mean) / sqrt(variance + epsilon), over any axes."""
    found = normalized(node)
    under = None if found is None else mean_and_epsilon(found[1])
    if found is None or under is None:
        return None
    centred, _, inverse_nodes = found
    variance, epsilon, add_nodes = under
    mean_square = producer_of(variance, "ReduceMean")
    axes = mean_axes(mean_square, facts)
    if mean_square is None or not axes:
        return None
    square = square_of(mean_square.inputs[0])
    subtract = producer_of(centred, "Sub")
    if square is None or subtract is None or subtract.inputs[0] is None:
        return None
    again = producer_of(square[0], "Sub")
    same = square[0] is centred or (again is not None and tuple(again.inputs) == tuple(subtract.inputs))
    mean = producer_of(subtract.inputs[1], "ReduceMean")
    if not same or again is None or mean is None or mean.inputs[0] is not subtract.inputs[0]:
        return None
    if mean_axes(mean, facts) != axes:
        return None
    inner = dict.fromkeys((mean, subtract, again, *square[1], mean_square, *add_nodes, *inverse_nodes))
    return ArithmeticNorm(subtract.inputs[0], tuple(axes), epsilon, tuple(inner))


@dataclass(frozen=True, slots=True)
class Narrowing:
    """The Casts around a norm that computes in float32 what is kept in a narrower type."""

    value: ir.Value  # before the first Cast
    last: ir.Node  # the second Cast


def narrowed(value: ir.Value, node: ir.Node) -> Narrowing | None:
    """Return the Casts where `value` is widened to float32 and only its norm, which `node` yields, narrowed again."""
    widen, output = producer_of(value, "Cast"), node.outputs[0]
    readers = output.consumers()
    if widen is None or widen.inputs[0] is None or output.is_graph_output() or len(readers) != 1:
        return None
    source, last = widen.inputs[0], readers[0]
    if not is_op(last, "Cast") or last.graph is not node.graph or source.dtype is None or value.dtype is None:
        return None
    is_narrow = source.dtype.name in ("FLOAT16", "BFLOAT16") and value.dtype.name == "FLOAT"
    return Narrowing(source, last) if is_narrow and integer(last, "to", 0) == int(source.dtype) else None


def next_with(
    value: ir.Value, op_type: str, wanted: Dims, rank: int, facts: ShapeFacts
) -> tuple[ir.Node, ir.Value] | None:
    """Return the only reader of `value` and its other operand, where that has exactly the shape `wanted`.

    A small constant may have axes of length 1 before it, up to `rank`.
    """
    readers = value.consumers()
    if value.is_graph_output() or len(readers) != 1 or not is_op(readers[0], op_type):
        return None
    if readers[0].graph is not (value.producer() or readers[0]).graph:
        return None
    for mine, other in operand_pairs(readers[0]):
        if mine is not value or other is value:
            continue
        return (readers[0], other) if has_tail(other, wanted, rank, facts) else None
    return None


def has_tail(value: ir.Value, wanted: Dims, rank: int, facts: ShapeFacts) -> bool:
    """Return whether a scale or bias has the shape `wanted`; a small constant also after axes of 1, up to `rank`."""
    shape = facts.shape(value)
    if shape is None or len(shape) > rank:
        return False
    extra = len(shape) - len(wanted)
    if extra > 0 and constant_array(value) is None:
        return False
    return extra >= 0 and shape == (Dim(1),) * extra + wanted


def fitted(value: ir.Value, lengths: tuple[int, ...], editor: Editor) -> ir.Value:
    """Return the scale or bias in the shape that the norm takes it in: a constant is reshaped where it has another."""
    array = constant_array(value)
    if array is None or array.shape == lengths:
        return value
    return editor.constant(array.reshape(lengths), f"{value.name}_flat")


def fixed_tail(shape: Dims | None, axis: int) -> Dims | None:
    """Return the dimensions from `axis` (negative) on, where all are integers."""
    if shape is None or len(shape) < -axis:
        return None
    tail = shape[axis:]
    return tail if all(isinstance(dim, Dim) and dim.fixed is not None for dim in tail) else None
