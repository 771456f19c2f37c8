"""Layer norms whose scale is multiplied into the inverse root first, as TensorFlow and Flax write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.fusion.norm_pattern import inverse_root_of, mean_and_epsilon, mean_axes, square_of
from passes.matching import constant_number, is_op, operand_pairs, producer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from passes.shapes import ShapeFacts


@dataclass(frozen=True, slots=True)
class FoldedNorm:
    """What is normalized over which axes (from the end), its scale and bias, and the nodes before the last one."""

    value: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    scale: ir.Value | None
    bias: ir.Value | None
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, slots=True)
class _Factor:
    """scale / sqrt(variance + epsilon), of a value with this mean."""

    value: ir.Value
    mean: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    scale: ir.Value | None
    nodes: tuple[ir.Node, ...]


def folded_norm(node: ir.Node, facts: ShapeFacts) -> FoldedNorm | None:
    """Return the norm where `node` is (x - mean) * f, or x * f + (bias - mean * f); f = scale / sqrt(v + epsilon)."""
    if is_op(node, "Mul"):
        for centred, other in operand_pairs(node):
            subtract = producer_of(centred, "Sub")
            factor = None if subtract is None else _factor(other, facts)
            if subtract is None or factor is None or tuple(subtract.inputs) != (factor.value, factor.mean):
                continue
            nodes = tuple(dict.fromkeys((*factor.nodes, subtract)))
            return FoldedNorm(factor.value, factor.axes, factor.epsilon, factor.scale, None, nodes)
    if is_op(node, "Add"):
        for product, rest in operand_pairs(node):
            multiply, subtract = producer_of(product, "Mul"), producer_of(rest, "Sub")
            moved = None if subtract is None else producer_of(subtract.inputs[1], "Mul")
            if multiply is None or subtract is None or moved is None:
                continue
            for value, other in operand_pairs(multiply):
                factor = _factor(other, facts)
                if factor is None or factor.value is not value or set(moved.inputs) != {factor.mean, other}:
                    continue
                nodes = tuple(dict.fromkeys((*factor.nodes, multiply, moved, subtract)))
                return FoldedNorm(value, factor.axes, factor.epsilon, factor.scale, subtract.inputs[0], nodes)
    return None


def _factor(value: ir.Value, facts: ShapeFacts) -> _Factor | None:
    for root, scale, outer in _scaled(value):
        inverse = inverse_root_of(root)
        under = None if inverse is None else mean_and_epsilon(inverse[0])
        spread = None if under is None else _variance(under[0], facts)
        if inverse is None or under is None or spread is None:
            continue
        source, mean, axes, nodes = spread
        return _Factor(source, mean, axes, under[1], scale, (*nodes, *under[2], *inverse[1], *outer))
    return None


def _scaled(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value | None, tuple[ir.Node, ...]]]:
    yield value, None, ()
    multiply = producer_of(value, "Mul")
    if multiply is not None:
        for root, scale in operand_pairs(multiply):
            yield root, scale, (multiply,)


def _variance(
    value: ir.Value, facts: ShapeFacts
) -> tuple[ir.Value, ir.Value, tuple[int, ...], tuple[ir.Node, ...]] | None:
    """Return x, its mean, the axes and nodes where `value` is mean((x - mean) ** 2), or mean(x ** 2) - mean ** 2."""
    outer: tuple[ir.Node, ...] = ()
    inner: tuple[ir.Node, ...]
    clip = producer_of(value, "Relu", "Max")  # rounding may make the difference negative, which no variance is
    if clip is not None:
        kept = [one for one in clip.inputs if constant_number(one) != 0]
        if len(kept) != 1 or kept[0] is None:
            return None
        value, outer = kept[0], (clip,)
    subtract = producer_of(value, "Sub")
    mean_square = producer_of(value if subtract is None else subtract.inputs[0], "ReduceMean")
    axes = mean_axes(mean_square, facts)
    square = None if mean_square is None else square_of(mean_square.inputs[0])
    if mean_square is None or not axes or square is None:
        return None
    if subtract is None:
        centred = producer_of(square[0], "Sub")
        source, mean = (None, None) if centred is None else centred.inputs
        inner = () if centred is None else (centred,)
    else:
        squared_mean = square_of(subtract.inputs[1])
        source, mean = square[0], None if squared_mean is None else squared_mean[0]
        inner = (subtract,) if squared_mean is None else (subtract, *squared_mean[1])
    average = producer_of(mean, "ReduceMean")
    if source is None or mean is None or average is None or average.inputs[0] is not source:
        return None
    if mean_axes(average, facts) != axes:
        return None
    return source, mean, tuple(axes), (average, *inner, *square[1], mean_square, *outer)
