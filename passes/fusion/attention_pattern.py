"""Recognising scaled dot-product attention that an exporter took apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.matching import (
    constant_number,
    constant_tensor,
    integer,
    integers,
    is_op,
    operand_pairs,
    producer_of,
    rank_of,
    with_constant,
)

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Scores:
    """softmax's input before the mask: `factor` * query @ transposed key, all of rank 4."""

    query: ir.Value  # [B, H, Sq, D]
    key: ir.Value
    key_perm: tuple[int, ...]  # what makes [B, H, Skv, D] of `key`
    factor: float
    product: ir.Value  # [B, H, Sq, Skv]
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, slots=True)
class AttentionMatch:
    """One attention: softmax(scores + bias + mask) @ value.

    `condition` is set where the mask is Where(condition, keep, hidden): `hidden` is the number that hides a key.
    """

    scores: Scores
    value: ir.Value  # [B, H, Skv, Dv]
    bias: ir.Value | None
    mask: ir.Value | None
    condition: ir.Value | None
    hidden: float
    is_guarded: bool  # NaN rows, those wholly masked by -inf, are replaced by 0
    nodes: tuple[ir.Node, ...]  # all that vanish, the last MatMul excepted


def match_attention(node: ir.Node) -> AttentionMatch | None:
    """Return the attention that ends in this MatMul, or None."""
    if not is_op(node, "MatMul") or rank_of(node.outputs[0]) not in (4, None):
        return None
    weights, value = node.inputs
    if weights is None or value is None:
        return None
    guard, softmax = _unguarded(weights)
    if softmax is None or not _is_over_last_axis(softmax) or softmax.inputs[0] is None:
        return None
    masked = softmax.inputs[0]
    found = _split_mask(masked)
    if found is None:
        return None
    scores, bias, mask, condition, hidden, mask_nodes = found
    return AttentionMatch(
        scores=scores,
        value=value,
        bias=bias,
        mask=mask,
        condition=condition,
        hidden=hidden,
        is_guarded=bool(guard),
        nodes=(*scores.nodes, *mask_nodes, softmax, *guard),
    )


def _unguarded(weights: ir.Value) -> tuple[tuple[ir.Node, ...], ir.Node | None]:
    """Return the nodes of Where(IsNaN(p), 0, p), if it is there, and the Softmax that makes p."""
    where = producer_of(weights, "Where")
    if where is None:
        return (), producer_of(weights, "Softmax")
    test, zero, kept = where.inputs
    is_nan = producer_of(test, "IsNaN")
    if is_nan is None or is_nan.inputs[0] is not kept or constant_number(zero) != 0:
        return (), None
    return (is_nan, where), producer_of(kept, "Softmax")


def _is_over_last_axis(softmax: ir.Node) -> bool:
    rank = rank_of(softmax.outputs[0])
    axis = integer(softmax, "axis", -1)
    return axis == -1 or (rank is not None and axis == rank - 1)


_Masked = tuple["Scores", "ir.Value | None", "ir.Value | None", "ir.Value | None", float, tuple["ir.Node", ...]]


def _split_mask(masked: ir.Value) -> _Masked | None:
    """Return scores, bias, mask, the mask's condition, the number that hides, and the nodes between."""
    add = producer_of(masked, "Add")
    if add is not None:
        for scores_side, mask in operand_pairs(add):
            found = _biased(scores_side)
            if found is not None:
                scores, bias, nodes = found
                condition, hidden = _condition_of(mask)
                return scores, bias, mask, condition, hidden, (*nodes, add)
        return None
    where = producer_of(masked, "Where")
    if where is not None:
        found, hidden_by = _biased(where.inputs[1]), constant_number(where.inputs[2])
        if found is None or hidden_by is None:
            return None
        scores, bias, nodes = found
        return scores, bias, None, where.inputs[0], hidden_by, (*nodes, where)
    scores_alone = match_scores(masked)
    return None if scores_alone is None else (scores_alone, None, None, None, 0.0, ())


def _biased(value: ir.Value | None) -> tuple[Scores, ir.Value | None, tuple[ir.Node, ...]] | None:
    """Return the scores and what is added to them, such as a position bias."""
    scores = match_scores(value)
    if scores is not None:
        return scores, None, ()
    add = producer_of(value, "Add")
    for scores_side, bias in operand_pairs(add) if add is not None else ():
        scores = match_scores(scores_side)
        if scores is not None and add is not None:
            return scores, bias, (add,)
    return None


def _condition_of(mask: ir.Value) -> tuple[ir.Value | None, float]:
    """Return c and h of a mask Where(c, 0, h)."""
    where = producer_of(mask, "Where")
    if where is None or constant_number(where.inputs[1]) != 0:
        return None, 0.0
    hidden = constant_number(where.inputs[2])
    return (None, 0.0) if hidden is None else (where.inputs[0], hidden)


def match_scores(value: ir.Value | None) -> Scores | None:
    """Return the scores that `value` is: factors on either side of, or after, query @ transposed key."""
    value, factor, nodes = _unscaled(value)
    matmul = producer_of(value, "MatMul")
    if matmul is None:
        return None
    query, query_factor, query_nodes = _unscaled(matmul.inputs[0])
    key, key_factor, key_nodes = _unscaled(matmul.inputs[1])
    perm = (0, 1, 3, 2)
    transpose = producer_of(key, "Transpose")
    inner: tuple[ir.Node, ...] = ()
    if transpose is not None:
        outer = integers(transpose, "perm")
        if outer is None or len(outer) != 4:
            return None
        perm = (outer[0], outer[1], outer[3], outer[2])
        inner = (transpose,)
        key, more_factor, more_nodes = _unscaled(transpose.inputs[0])
        key_factor *= more_factor
        inner = (*inner, *more_nodes)
    if query is None or key is None or rank_of(matmul.outputs[0]) != 4:
        return None
    if constant_tensor(key) is not None or constant_tensor(query) is not None:
        return None
    return Scores(
        query=query,
        key=key,
        key_perm=perm,
        factor=factor * query_factor * key_factor,
        product=matmul.outputs[0],
        nodes=(*nodes, matmul, *query_nodes, *key_nodes, *inner),
    )


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float, tuple[ir.Node, ...]]:
    """Return what is multiplied or divided by one-element constants, the product of those, and the nodes passed."""
    factor = 1.0
    nodes: list[ir.Node] = []
    while True:
        node = producer_of(value, "Mul", "Div")
        if node is None:
            return value, factor, tuple(nodes)
        found = with_constant(node) if node.op_type == "Mul" else _divided(node)
        if found is None:
            return value, factor, tuple(nodes)
        value, by = found
        factor *= by
        nodes.append(node)


def _divided(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return x and 1 / c where `node` is x / c."""
    by = constant_number(node.inputs[1])
    return (node.inputs[0], 1 / by) if by and node.inputs[0] is not None else None
