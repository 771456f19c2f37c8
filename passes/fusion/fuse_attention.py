"""Attention as one operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import broadcasts_into
from passes.editing import Editor
from passes.fusion.attention_cache import absorb_cache
from passes.fusion.attention_causal import absorb_causal
from passes.fusion.attention_groups import absorb_groups
from passes.fusion.attention_heads import absorb_heads
from passes.fusion.attention_lift import lift
from passes.fusion.attention_mask_input import WIDE_FLOATS, mask_input
from passes.fusion.attention_pattern import AttentionMatch, match_attention
from passes.fusion.attention_scale import absorb_scale
from passes.fusion.attention_scope import AttentionScope
from passes.matching import constant_array, first_shared, is_op, opset_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET_OF_ATTENTION = 23

# Where(condition, scores, h) replaces a hidden score, Attention adds to it. Both weigh the key 0 as long as h lies far
# below every score, and then h may as well be its own number for it; float16 has no such number.
_REPLACING = -1e8


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Raise scaled dot-product attention to the Attention operator of opset 23.

    softmax(scale * Q @ K^T + bias + mask) @ V with Q, K, V of [B, H, S, D] becomes one Attention, also where B and H
    are one axis [lift]. Every Attention then takes up what surrounds it (rules in brackets): key and value heads that
    are repeated for the query heads [groups], a cache that key and value are appended to [cache], head split and head
    merge, with a RotaryEmbedding between, by the form on [B, S, H * D] [heads], and a constant factor of query or key
    [scale], and a mask that is the causal triangle and nothing else [causal]. Any other mask is taken as it is,
    additive or boolean, and expanded to [.., Sq, Skv]; a bias (position bias) is added to it, once where layers share
    both. A guard that replaces NaN rows by 0 is dropped, since Attention yields 0 for a row that -inf masks wholly.
    ONNX Runtime takes the lowest float32 for -inf as well: where the graph writes that number it becomes -1e30, but a
    mask that is an input may hold it, and a row of it yields 0, not an average.
    Refuses when scores or weights have other readers, a mask does not provably broadcast to the scores, an unguarded
    -inf mask may hide a whole row (NaN before, 0 after), the scale is not positive, or hidden scores are replaced by a
    number that is not far below all scores.
    """

    name: ClassVar[str] = "fuse-attention"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        scope = AttentionScope(facts, editor, recorder)
        is_recent = opset_of(model) >= OPSET_OF_ATTENTION
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph:
                    continue
                if is_op(node, "MatMul"):
                    match = match_attention(node)
                    if match is None and is_recent:
                        lifted = lift(node, scope)
                        node, match = (node, None) if lifted is None else (lifted, match_attention(lifted))
                    if match is None:
                        continue
                    if not is_recent:
                        recorder.refuse(node, f"Attention needs opset 23, the model has {opset_of(model)}")
                        continue
                    fused = _fuse(node, match, scope)
                    if fused is not None:
                        _absorb(fused, scope)
                elif is_op(node, "Attention"):
                    _absorb(node, scope)
        return recorder.result()


def _absorb(node: ir.Node, scope: AttentionScope) -> None:
    """Take up what surrounds an Attention: repeated heads, a cache, head splits and merges, factors, causal masks."""
    absorb_groups(node, scope)
    node = absorb_cache(node, scope)
    node = absorb_heads(node, scope)
    absorb_scale(node, scope)
    absorb_causal(node, scope)


def _fuse(node: ir.Node, match: AttentionMatch, scope: AttentionScope) -> ir.Node | None:
    facts, recorder, editor = scope.facts, scope.recorder, scope.editor
    reason = _refusal(node, match, facts)
    if reason:
        recorder.refuse(node, reason, "attention")
        return None
    if not recorder.may_apply(node, "attention"):
        return None
    output, scores = node.outputs[0], match.scores
    name = str(output.name)
    key = scores.key
    if scores.key_perm != (0, 1, 2, 3):
        key_shape = facts.shape(key)
        key = editor.insert(
            node, "Transpose", [key], name=f"{name}_key", attributes={"perm": list(scores.key_perm)}, dtype=key.dtype
        )
        if key_shape is not None:
            facts.shapes[key] = tuple(key_shape[axis] for axis in scores.key_perm)
            scope.state_shape(key, facts.shapes[key])
    mask = mask_input(node, match, key, scope)
    fused = editor.insert(
        node,
        "Attention",
        [scores.query, key, match.value, *([] if mask is None else [mask])],
        name=name,
        attributes={"scale": float(scores.factor)},
        like=output,
    )
    query, value = facts.shape(scores.query), facts.shape(match.value)
    assert query is not None  # _refusal asked
    assert value is not None
    facts.shapes[fused] = (*query[:3], value[3])
    editor.take_over(output, fused)
    return fused.producer()


def _refusal(node: ir.Node, match: AttentionMatch, facts: ShapeFacts) -> str:
    shared = first_shared(match.nodes, node)
    value = facts.shape(match.value)
    query, key = facts.shape(match.scores.query), facts.shape(match.scores.key)
    if query is None or key is None or value is None:
        return "the ranks of query, key and value are not known"
    if not len(query) == len(key) == len(value) == 4:
        return f"query, key and value have the ranks {len(query)}, {len(key)} and {len(value)}, not 4"
    key = tuple(key[axis] for axis in match.scores.key_perm)
    if None in (*query[:2], *key[:2], *value[:2]) or not query[:2] == key[:2] == value[:2]:
        return "batch and heads of query, key and value are not known to be equal"
    scores = (*query[:3], key[2])  # more is known of them than of the product, whose operands may name one size twice
    if not 0 < match.scores.factor < math.inf:
        return f"the scale is {match.scores.factor:g}, and Attention takes a positive one"
    mask = match.condition if match.mask is None else match.mask
    if mask is not None:
        shape = facts.shape(mask)
        if not shape or not broadcasts_into(shape, scores):
            return f"the mask '{mask.name}' does not provably broadcast to the scores"
        if match.bias is not None and not broadcasts_into(facts.shape(match.bias), scores):
            return f"the bias '{match.bias.name}' does not provably broadcast to the scores"
        if match.hidden == -math.inf and not match.is_guarded:
            return f"the mask '{mask.name}' may hide a whole row: NaN here, 0 in Attention"
        if match.mask is None and match.hidden != -math.inf and not _is_far_below(match):
            return f"hidden scores become {match.hidden:g}: Attention adds to a score, it does not replace it"
        if match.mask is not None and match.condition is None and not match.is_guarded and _hides_rows(match.mask):
            return f"the mask '{mask.name}' hides a whole row: NaN here, 0 in Attention"
    return shared


def _is_far_below(match: AttentionMatch) -> bool:
    """Return whether adding the hiding number gives the weights that replacing the scores by it gives."""
    dtype = match.scores.query.dtype
    return dtype is not None and dtype.name in WIDE_FLOATS and match.hidden <= _REPLACING


def _hides_rows(mask: ir.Value) -> bool:
    import numpy as np

    array = constant_array(mask, max_bytes=1 << 24)
    return array is not None and bool(np.isneginf(array).all(axis=-1).any())
