"""What a Pad adds, and what it adds together with the operator that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.cleanup.local_rules import RuleScope
from passes.matching import constant_integers, constant_number, input_at, integers

if TYPE_CHECKING:
    import onnx_ir as ir

Amounts = tuple[list[int], list[int]]
"""How many elements go before and after each axis."""


def pads_of(node: ir.Node, scope: RuleScope) -> Amounts | None:
    """Return what a Pad adds before and after each axis; None where that is not constant."""
    shape = scope.shape(node.inputs[0])
    attribute = integers(node, "pads")
    pads = list(attribute) if attribute is not None else constant_integers(input_at(node, 1))
    if shape is None or pads is None:
        return None
    rank = len(shape)
    axes = list(range(rank))
    if input_at(node, 3) is not None:
        given = constant_integers(node.inputs[3])
        if given is None:
            return None
        axes = [axis % rank for axis in given]
    if len(pads) != 2 * len(axes):
        return None
    begins, ends = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[index], pads[index + len(axes)]
    return begins, ends


def fill_of(node: ir.Node) -> float | None:
    """Return the number that a Pad fills in; None where it is not constant."""
    if input_at(node, 2) is None:
        return _number_attribute(node)
    return constant_number(node.inputs[2])


def _number_attribute(node: ir.Node) -> float:
    attribute = node.attributes.get("value")
    return 0.0 if attribute is None else attribute.as_float()


def spatial_pads(amounts: Amounts) -> list[int]:
    """Return the amounts on the spatial axes in the order of a Conv's pads: all begins, then all ends."""
    return [*amounts[0][2:], *amounts[1][2:]]


def total_pads(reader: ir.Node, amounts: Amounts) -> list[int]:
    """Return what the Pad and its reader add together, in the order of a Conv's pads."""
    new = spatial_pads(amounts)
    own = integers(reader, "pads") or (0,) * len(new)
    return [first + second for first, second in zip(new, own, strict=True)]
