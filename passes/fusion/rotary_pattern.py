"""Recognising rotary position embedding that was written out: x * cos + rotate_half(x) * sin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.fusion.rotary_caches import axes_given
from passes.matching import input_at, integer, operand_pairs, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts


@dataclass(frozen=True, slots=True)
class RotaryMatch:
    """One rotation of `data` [B, H, S, D] by full-width tables."""

    data: ir.Value
    cosine: ir.Value
    sine: ir.Value
    nodes: tuple[ir.Node, ...]  # all that vanish, the last Add excepted


def match_rotary(node: ir.Node, facts: ShapeFacts) -> RotaryMatch | None:
    """Return the rotation that ends in this Add, or None."""
    for plain_side, turned_side in operand_pairs(node):
        kept, turned = producer_of(plain_side, "Mul"), producer_of(turned_side, "Mul")
        if kept is None or turned is None or kept is turned:
            continue
        for rotated, sine in operand_pairs(turned):
            found = _rotated_half(rotated, facts)
            if found is None:
                continue
            data, nodes = found
            for same, cosine in operand_pairs(kept):
                if same is data:
                    return RotaryMatch(data, cosine, sine, (*nodes, kept, turned))
    return None


def _rotated_half(value: ir.Value, facts: ShapeFacts) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """Return x and the nodes where `value` is concat(-x[.., D/2:], x[.., :D/2])."""
    concat = producer_of(value, "Concat")
    rank = len(facts.shape(value) or ())
    if concat is None or len(concat.inputs) != 2 or integer(concat, "axis", 0) not in (-1, rank - 1):
        return None
    negated = producer_of(concat.inputs[0], "Neg")
    if negated is None:
        return None
    upper, lower = part_of(negated.inputs[0], facts), part_of(concat.inputs[1], facts)
    if upper is None or lower is None or upper.source is not lower.source or upper.width is None:
        return None
    half = upper.width // 2
    if upper.width % 2 or (lower.start, lower.end) != (0, half) or (upper.start, upper.end) != (half, upper.width):
        return None
    nodes = dict.fromkeys((upper.node, lower.node, negated, concat))
    return upper.source, tuple(nodes)


@dataclass(frozen=True, slots=True)
class Part:
    """A range of the last axis of `source`."""

    source: ir.Value
    start: int
    end: int
    width: int | None
    node: ir.Node


def part_of(value: ir.Value | None, facts: ShapeFacts) -> Part | None:
    """Return the range of the last axis that a Slice or Split takes, where it is known by number."""
    node = producer_of(value, "Slice", "Split")
    source = None if node is None else node.inputs[0]
    shape = facts.shape(source)
    if node is None or value is None or source is None or not shape or shape[-1] is None or shape[-1].fixed is None:
        return None
    width, last = shape[-1].fixed, len(shape) - 1
    if node.op_type == "Slice":
        bounds = [facts.content(input_at(node, index)) for index in (1, 2)]
        axes, step = axes_given(node, facts), facts.content(input_at(node, 4))
        if axes is None or len(axes) != 1 or axes[0] not in (-1, last) or None in bounds:
            return None
        if input_at(node, 4) is not None and (step is None or step.fixed != (1,)):
            return None
        fixed = [bound.fixed for bound in bounds if bound is not None]
        if any(one is None or len(one) != 1 for one in fixed):
            return None
        start, end, _ = slice(*(one[0] for one in fixed if one is not None)).indices(width)
        return Part(source, start, end, width, node)
    if integer(node, "axis", 0) not in (-1, last):
        return None
    sizes = _split_sizes(node, width, facts)
    if sizes is None:
        return None
    index = next(place for place, output in enumerate(node.outputs) if output is value)
    return Part(source, sum(sizes[:index]), sum(sizes[: index + 1]), width, node)


def _split_sizes(node: ir.Node, width: int, facts: ShapeFacts) -> tuple[int, ...] | None:
    count = len(node.outputs)
    if input_at(node, 1) is None:
        return (width // count,) * count if width % count == 0 else None
    content = facts.content(node.inputs[1])
    sizes = None if content is None else content.fixed
    return sizes if sizes is not None and len(sizes) == count and sum(sizes) == width else None
