"""Attention whose batch and heads are one axis, [B * H, S, D], written for [B, H, S, D]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims, product
from passes.fusion.attention_layout import batch_and_heads
from passes.fusion.attention_scope import AttentionScope
from passes.matching import (
    constant_number,
    integer,
    is_op,
    operand_pairs,
    other_readers,
    producer_of,
    with_constant,
)
from passes.shape_vector import shape_vector

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_MOST_STEPS = 8


@dataclass(frozen=True, slots=True)
class _Step:
    """A node between the scores and the weights, and which of its inputs holds them."""

    node: ir.Node
    place: int


def lift(node: ir.Node, scope: AttentionScope) -> ir.Node | None:
    """Return the last MatMul of rank 4 for this one of rank 3, softmax(.. query @ key ..) @ value; None if it is none.

    Every tensor becomes one of rank 4 by a Reshape, which the head splits and merges next to it then take up. What lies
    between the products may be factors, masks, and Reshapes to rank 4 and back.
    """
    facts = scope.facts
    shape = facts.shape(node.outputs[0])
    if not is_op(node, "MatMul") or shape is None or len(shape) != 3 or None in shape:
        return None
    steps = _steps(node.inputs[0], node, facts, _MOST_STEPS)
    if steps is None or sum(is_op(step.node, "Softmax") for step in steps) != 1:
        return None
    scores = steps[0].node.inputs[steps[0].place]
    first = None if scores is None else scores.producer()
    if scores is None or first is None or any(value is None for value in (*first.inputs, *node.inputs)):
        return None
    operands = [value for value in (*first.inputs, node.inputs[1]) if value is not None]
    sizes = batch_and_heads(_unscaled(operands[0]), facts)
    targets = None if sizes is None else [_target(value, sizes, node, scope) for value in (*operands, scores)]
    reason = _refusal(steps, sizes, facts, shape)
    if sizes is None or targets is None or None in targets or reason:
        scope.recorder.refuse(node, reason or "batch and heads cannot be told apart in its first axis", "lift")
        return None
    if not scope.recorder.may_apply(node, "lift"):
        return None
    query, key = (_lifted(value, sizes, node, scope) for value in operands[:2])
    value = _inserted(node, "MatMul", [query, key], scores, sizes, scope)
    for step in steps:
        if not is_op(step.node, "Reshape"):
            inputs = [
                value if index == step.place else _mask(other, sizes, node, scope)
                for index, other in enumerate(step.node.inputs)
            ]
            attributes = {"axis": -1} if is_op(step.node, "Softmax") else {}
            value = _inserted(node, step.node.op_type, inputs, scores, sizes, scope, attributes)
    last = _inserted(node, "MatMul", [value, _lifted(operands[2], sizes, node, scope)], node.outputs[0], sizes, scope)
    target = shape_vector(node, (Dim(-1), *shape[1:]), [last], facts, scope.editor)
    assert target is not None  # `last` has these dimensions
    flat = scope.insert(
        node, "Reshape", [last, target()], name=str(node.outputs[0].name), shape=shape, dtype=node.outputs[0].dtype
    )
    scope.editor.take_over(node.outputs[0], flat)
    return last.producer()


def _steps(value: ir.Value | None, reader: ir.Node, facts: ShapeFacts, left: int) -> list[_Step] | None:
    """Return the nodes from the first product, excluded, to `value`, each read by the next alone."""
    node = None if value is None else value.producer()
    if value is None or node is None or not left or node.graph is not reader.graph or other_readers(value, reader):
        return None
    shape = facts.shape(value)
    if is_op(node, "MatMul"):
        return [] if shape is not None and len(shape) == 3 else None
    if is_op(node, "Softmax"):
        places = [0] if shape is not None and integer(node, "axis", -1) in (-1, len(shape) - 1) else []
    elif is_op(node, "Reshape"):
        places = [0] if _is_view(facts.shape(node.inputs[0]), shape) else []
    elif is_op(node, "Where"):
        places = [1] if constant_number(node.inputs[2]) is not None else []
    elif is_op(node, "Add", "Mul", "Div"):
        places = [0, 1] if node.op_type != "Div" else [0]
    else:
        places = []
    for place in places:
        if facts.shape(node.inputs[place]) == shape or is_op(node, "Reshape"):
            found = _steps(node.inputs[place], node, facts, left - 1)
            if found is not None:
                return [*found, _Step(node, place)]
    return None


def _is_view(before: Dims | None, after: Dims | None) -> bool:
    """Return whether one is [B, H, Sq, Skv] and the other [B * H, Sq, Skv]."""
    if before is None or after is None or {len(before), len(after)} != {3, 4}:
        return False
    wide, thin = (before, after) if len(before) == 4 else (after, before)
    return None not in thin and (product(wide[:2]), *wide[2:]) == thin


def _refusal(steps: Sequence[_Step], sizes: tuple[Dim, Dim] | None, facts: ShapeFacts, shape: Dims) -> str:
    if sizes is None:
        return "batch and heads cannot be told apart in its first axis"
    for step in steps:
        after = facts.shape(step.node.outputs[0])
        if after is not None and len(after) == 4 and after[:2] != sizes:
            return "its scores have other heads than its query"
        for index, other in enumerate(step.node.inputs):
            if index == step.place or is_op(step.node, "Reshape"):
                continue
            own = facts.shape(other)
            if own is None or (len(own) == 3 and (None in own or own[0] not in (Dim(1), shape[0]))):
                return "the shape of a mask is not known"
            if len(own) == 3 and after is not None and len(after) == 4 and own[0] != Dim(1):
                return "a mask has an axis of heads only"
    return ""


def _unscaled(value: ir.Value) -> ir.Value:
    product_node = producer_of(value, "Mul")
    found = None if product_node is None else with_constant(product_node)
    return value if found is None else found[0]


def _wide(value: ir.Value, sizes: tuple[Dim, Dim], facts: ShapeFacts) -> Dims | None:
    shape = facts.shape(value)
    if shape is None or len(shape) != 3 or shape[0] != product(sizes):
        return None
    return (*sizes, *shape[1:])


def _target(value: ir.Value, sizes: tuple[Dim, Dim], node: ir.Node, scope: AttentionScope) -> object:
    wide = _wide(value, sizes, scope.facts)
    return None if wide is None else shape_vector(node, wide, [value], scope.facts, scope.editor)


def _reshaped(value: ir.Value, sizes: tuple[Dim, Dim], node: ir.Node, scope: AttentionScope) -> ir.Value:
    wide = _wide(value, sizes, scope.facts)
    assert wide is not None  # asked before
    target = shape_vector(node, wide, [value], scope.facts, scope.editor)
    assert target is not None
    return scope.insert(node, "Reshape", [value, target()], name=f"{value.name}_heads", shape=wide, dtype=value.dtype)


def _lifted(value: ir.Value, sizes: tuple[Dim, Dim], node: ir.Node, scope: AttentionScope) -> ir.Value:
    """Return query, key or value as [B, H, .., ..]; a factor stays the last thing that happens to it."""
    scaling = producer_of(value, "Mul")
    if scaling is None or _unscaled(value) is value:
        return _reshaped(value, sizes, node, scope)
    for data, factor in operand_pairs(scaling):
        if data is _unscaled(value):
            inner = _reshaped(data, sizes, node, scope)
            return _inserted(node, "Mul", [inner, factor], value, sizes, scope)
    raise AssertionError("one operand is the unscaled one")


def _mask(value: ir.Value | None, sizes: tuple[Dim, Dim], node: ir.Node, scope: AttentionScope) -> ir.Value | None:
    """Return a mask of [B * H, .., ..] as [B, H, .., ..]; any other broadcasts as it did."""
    shape = scope.facts.shape(value)
    if value is None or shape is None or len(shape) != 3 or shape[0] == Dim(1):
        return value
    return _reshaped(value, sizes, node, scope)


def _inserted(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value,
    sizes: tuple[Dim, Dim],
    scope: AttentionScope,
    attributes: dict[str, int] | None = None,
) -> ir.Value:
    return scope.insert(
        node, op_type, inputs, name=f"{like.name}_heads", shape=_wide(like, sizes, scope.facts), dtype=like.dtype,
        attributes=attributes,
    )  # fmt: skip
