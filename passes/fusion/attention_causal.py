"""A mask that hides later keys and nothing else, as Attention's own is_causal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.cleanup.counting import counting_of
from passes.cleanup.known_values import uniform_number
from passes.fusion.attention_scope import AttentionScope
from passes.matching import constant_array, constant_number, input_at, integer, is_op, producer_of

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_MASK, _OTHERS = 3, slice(4, 7)  # past key, past value, lengths of the keys
_TABLE_BYTES = 1 << 24
_DEPTH = 8
_MOVES = ("Expand", "Identity", "Squeeze", "Unsqueeze")
_HIDING = {"FLOAT": -1e8, "BFLOAT16": -1e8, "DOUBLE": -1e8, "FLOAT16": -6e4}
"""From this number on down, what is added to a score leaves it no weight beside the row's own first key."""


def absorb_causal(node: ir.Node, scope: AttentionScope) -> None:
    """Let the Attention be causal instead of reading a mask that is the causal triangle, whatever the data.

    For as many queries as keys, and without a cache: the triangle then begins at the first key in every opset.
    """
    mask = input_at(node, _MASK)
    if mask is None or integer(node, "is_causal", 0) or any(value is not None for value in node.inputs[_OTHERS]):
        return
    if any(output.uses() or output.is_graph_output() for output in node.outputs[3:]):
        return  # the masked scores are read
    facts = scope.facts
    query, key, own = facts.shape(node.inputs[0]), facts.shape(node.inputs[1]), facts.shape(mask)
    if query is None or key is None or not own or len(own) < 2 or not is_causal_triangle(mask, facts):
        return
    if query[-2] is None or not query[-2] == key[-2] == own[-1] == own[-2]:
        scope.recorder.refuse(node, f"'{mask.name}' is causal, but not provably for as many queries as keys", "causal")
        return
    if not scope.recorder.may_apply(node, "causal"):
        return
    import onnx_ir as ir

    node.replace_input_with(_MASK, None)
    node.resize_inputs(_MASK)
    node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
    producer = mask.producer()
    if producer is not None:
        scope.editor.drop(producer)


def is_causal_triangle(value: ir.Value | None, facts: ShapeFacts, *, depth: int = _DEPTH) -> bool:
    """Return whether a mask [.., S, S] lets query i see the keys up to i, and hides all others.

    Booleans are true for what is seen; numbers are added to the scores.
    """
    if value is None or depth == 0:
        return False
    array = constant_array(value, max_bytes=_TABLE_BYTES)
    if array is not None:
        return _is_triangle(array)
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if is_op(node, *_MOVES):
        before, after = facts.shape(node.inputs[0]), facts.shape(value)
        if not before or not after or len(before) < 2 or before[-2:] != after[-2:]:
            return False  # a last axis that is new, or repeated
        return is_causal_triangle(node.inputs[0], facts, depth=depth - 1)
    if is_op(node, "Where"):
        return _chooses_triangle(node, facts, depth)
    if is_op(node, "Trilu") and value.dtype is not None and value.dtype.name in _HIDING:
        number, diagonal = uniform_number(node.inputs[0], facts), constant_number(input_at(node, 1))
        is_above = integer(node, "upper", 1) == 1 and diagonal == 1
        return is_above and number is not None and number <= _HIDING[value.dtype.name]
    return value.dtype is not None and value.dtype.name == "BOOL" and _sees_earlier(value, facts, depth=depth)


def _is_triangle(array: np.ndarray) -> bool:
    import numpy as np

    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return False
    seen = np.tri(array.shape[-1], dtype=bool)
    if array.dtype == bool:
        return bool((array == seen).all())
    least = _HIDING.get(_type_name(array))
    if least is None:
        return False
    return bool((np.where(seen, array, 0) == 0).all() and (np.where(seen, least, array) <= least).all())


def _type_name(array: np.ndarray) -> str:
    return {"float32": "FLOAT", "float64": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}.get(
        array.dtype.name, ""
    )


def _chooses_triangle(where: ir.Node, facts: ShapeFacts, depth: int) -> bool:
    """Return whether Where(seen, 0, h), or Where(hidden, h, 0), adds the triangle."""
    condition, yes, no = where.inputs
    numbers = constant_number(yes), constant_number(no)
    least = None if where.outputs[0].dtype is None else _HIDING.get(where.outputs[0].dtype.name)
    if None in numbers or least is None:
        return False
    if numbers[0] == 0 and (numbers[1] or 0.0) <= least:
        return is_causal_triangle(condition, facts, depth=depth - 1)
    hides = producer_of(condition, "Not", "Greater", "Less", "Trilu", "Cast")
    if numbers[1] != 0 or (numbers[0] or 0.0) > least or hides is None:
        return False
    return _sees_earlier(condition, facts, depth=depth - 1, is_negated=True)


def _sees_earlier(value: ir.Value | None, facts: ShapeFacts, *, depth: int, is_negated: bool = False) -> bool:
    """Return whether booleans are true just where key <= query; or, negated, just where key > query."""
    node = None if value is None else value.producer()
    if node is None or depth == 0 or node.domain != "":
        return False
    if is_op(node, *_MOVES):
        before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
        if not before or not after or len(before) < 2 or before[-2:] != after[-2:]:
            return False
        return _sees_earlier(node.inputs[0], facts, depth=depth - 1, is_negated=is_negated)
    if is_op(node, "Not"):
        return _sees_earlier(node.inputs[0], facts, depth=depth - 1, is_negated=not is_negated)
    if is_op(node, "And") and not is_negated:
        for index in (0, 1):
            if uniform_number(node.inputs[index], facts) == 1:
                return _sees_earlier(node.inputs[1 - index], facts, depth=depth - 1)
        return False
    if is_op(node, "Cast"):
        return _trilu_of_ones(node.inputs[0], facts, is_negated=is_negated)
    if is_op(node, "Trilu"):
        return _trilu_of_ones(node.outputs[0], facts, is_negated=is_negated)
    return _compares_places(node, facts, is_negated=is_negated)


def _trilu_of_ones(value: ir.Value | None, facts: ShapeFacts, *, is_negated: bool) -> bool:
    """Return whether this is 1 on and below the diagonal and 0 above; or, negated, 1 above it and 0 elsewhere."""
    trilu = producer_of(value, "Trilu")
    if trilu is None or uniform_number(trilu.inputs[0], facts) != 1:
        return False
    given = input_at(trilu, 1)
    diagonal = 0 if given is None else constant_number(given)
    return (integer(trilu, "upper", 1), diagonal) == ((1, 1) if is_negated else (0, 0))


_COMPARISONS = {"Less": (0, True), "LessOrEqual": (0, False), "Greater": (1, True), "GreaterOrEqual": (1, False)}
"""By comparison: which operand is the smaller one where it holds, and whether it must be smaller."""


def _compares_places(node: ir.Node, facts: ShapeFacts, *, is_negated: bool) -> bool:
    """Return whether places of keys, along the last axis, are compared with those of queries, along the one before."""
    if node.op_type not in _COMPARISONS:
        return False
    at, is_strict = _COMPARISONS[node.op_type]
    pair = node.inputs[at], node.inputs[1 - at]  # smaller, larger
    key, query = (pair[1], pair[0]) if is_negated else pair
    keys, queries, shape = counting_of(key, facts), counting_of(query, facts), facts.shape(node.outputs[0])
    if keys is None or queries is None or shape is None or keys.start is not queries.start:
        return False
    if (queries.axis, keys.axis) != (-2, -1) or None in shape[-2:]:
        return False
    lengths = (facts.shape(query) or ())[-2], (facts.shape(key) or ())[-1]
    if lengths != shape[-2:]:
        return False  # one place, repeated
    ahead = queries.offset - keys.offset  # row i and column j: j <= i + ahead, or i + ahead <= j
    return ahead + is_strict == 1 if is_negated else ahead - is_strict == 0
