"""Attention as one operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim, broadcast, broadcasts_into
from passes.editing import Editor
from passes.fusion.attention_cache import absorb_cache
from passes.fusion.attention_groups import absorb_groups
from passes.fusion.attention_heads import absorb_heads
from passes.fusion.attention_lift import lift
from passes.fusion.attention_pattern import AttentionMatch, match_attention
from passes.fusion.attention_scale import absorb_scale
from passes.fusion.attention_scope import AttentionScope
from passes.matching import constant_array, first_shared, is_op, opset_of
from passes.shape_vector import shape_vector
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_ATTENTION = 23

# Hides a key as the lowest float32 does: a score below 1e22 vanishes beside it, so a row that is masked wholly still
# weighs all keys alike. Runtimes take the lowest float itself for -inf (ONNX Runtime 1.32 then yields a row of 0).
_HIDING = -1e30

# Where(condition, scores, h) replaces a hidden score, Attention adds to it. Both weigh the key 0 as long as h lies far
# below every score, and then h may as well be _HIDING; float16 has no such number.
_REPLACING = -1e8
_WIDE_FLOATS = ("FLOAT", "BFLOAT16", "DOUBLE")


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Raise scaled dot-product attention to the Attention operator of opset 23.

    softmax(scale * Q @ K^T + bias + mask) @ V with Q, K, V of [B, H, S, D] becomes one Attention. Every Attention then
    takes up what surrounds it (rules in brackets): key and value heads that are repeated for the query heads [groups],
    a cache that key and value are appended to [cache], head split and head merge, with a RotaryEmbedding between, by
    the form on [B, S, H * D] [heads], and a constant factor of query or key [scale]. A mask is taken as it is, additive
    or boolean, and expanded to [.., Sq, Skv]; a bias (position bias) is added to it, once where layers share both. A
    guard that replaces NaN rows by 0 is dropped, since Attention yields 0 for a row that -inf masks wholly.
    Refuses when scores or weights have other readers, a mask does not provably broadcast to the scores, an unguarded
    -inf mask may hide a whole row (NaN before, 0 after), or hidden scores are replaced by a number that is not far
    below all scores.
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
                    fused = _fuse(node, match, facts, recorder, editor)
                    if fused is not None:
                        _absorb(fused, scope)
                elif is_op(node, "Attention"):
                    _absorb(node, scope)
        return recorder.result()


def _absorb(node: ir.Node, scope: AttentionScope) -> None:
    """Take up what surrounds an Attention: repeated heads, a cache, head splits and merges, factors."""
    absorb_groups(node, scope)
    node = absorb_cache(node, scope)
    node = absorb_heads(node, scope)
    absorb_scale(node, scope)


def _fuse(
    node: ir.Node, match: AttentionMatch, facts: ShapeFacts, recorder: Recorder, editor: Editor
) -> ir.Node | None:
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
            _state_shape(key, facts)
    mask = _mask(node, match, key, facts, editor)
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


def _state_shape(value: ir.Value, facts: ShapeFacts) -> None:
    import onnx_ir as ir

    from passes.dimensions import plain

    shape = facts.shape(value)
    if shape is not None:
        value.shape = ir.Shape([plain(dim) for dim in shape])


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
    if not math.isfinite(match.scores.factor):
        return f"the scale is {match.scores.factor}"
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
    return dtype is not None and dtype.name in _WIDE_FLOATS and match.hidden <= _REPLACING


def _hides_rows(mask: ir.Value) -> bool:
    import numpy as np

    array = constant_array(mask, max_bytes=1 << 24)
    return array is not None and bool(np.isneginf(array).all(axis=-1).any())


def _mask(node: ir.Node, match: AttentionMatch, key: ir.Value, facts: ShapeFacts, editor: Editor) -> ir.Value | None:
    """Return the value for Attention's mask input, of [.., Sq, Skv], or None without a mask."""
    mask, bias, condition = match.mask, match.bias, match.condition
    dtype = match.scores.query.dtype
    assert dtype is not None
    if condition is not None:
        if match.hidden == -math.inf and bias is None:
            mask = condition
        elif mask is None or match.hidden == -math.inf or (dtype.name in _WIDE_FLOATS and match.hidden < _HIDING):
            hidden = match.hidden if match.hidden == -math.inf else _HIDING
            mask, bias = _where(node, condition, bias, hidden, dtype, facts, editor), None
    if mask is None:
        return None
    if bias is not None:
        shapes = [facts.shape(part) for part in (bias, mask)]
        mask = editor.insert(node, "Add", [bias, mask], name=f"{node.outputs[0].name}_bias", dtype=dtype)
        facts.shapes[mask] = broadcast(shapes) or ()
        _state_shape(mask, facts)
    return _expanded(node, mask, match.scores.query, key, facts, editor)


def _where(
    node: ir.Node,
    condition: ir.Value,
    kept: ir.Value | None,
    hidden: float,
    dtype: ir.DataType,
    facts: ShapeFacts,
    editor: Editor,
) -> ir.Value:
    """Return Where(condition, kept or 0, hidden)."""
    import numpy as np

    shapes = [facts.shape(condition)]
    if kept is None:
        kept = editor.constant(np.array(0.0, dtype=dtype.numpy()), "mask_value")
    else:
        shapes.append(facts.shape(kept))
    number = editor.constant(np.array(hidden, dtype=dtype.numpy()), "mask_value")
    mask = editor.insert(node, "Where", [condition, kept, number], name=f"{node.outputs[0].name}_mask", dtype=dtype)
    facts.shapes[mask] = broadcast(shapes) or ()
    _state_shape(mask, facts)
    return mask


def _expanded(
    node: ir.Node, mask: ir.Value, query: ir.Value, key: ir.Value, facts: ShapeFacts, editor: Editor
) -> ir.Value:
    """Expand the last two axes to [Sq, Skv], which ONNX Runtime asks for, and a rank of 3 to 4."""
    import numpy as np

    shape = facts.shape(mask)
    assert shape is not None
    name = f"{node.outputs[0].name}_mask"
    if len(shape) == 3:
        axes = editor.constant(np.array([0], dtype=np.int64), "mask_axes")
        mask = editor.insert(node, "Unsqueeze", [mask, axes], name=name, dtype=mask.dtype)
        shape = (Dim(1), *shape)
        facts.shapes[mask] = shape
        _state_shape(mask, facts)
    wanted = []
    for tensor, place in ((query, -2), (key, -1)):
        dims = facts.shape(tensor)
        assert dims is not None
        own = shape[place] if len(shape) >= -place else Dim(1)
        wanted.append((tensor, dims[2], own == dims[2]))
    if all(fits for _, _, fits in wanted) and len(shape) >= 2:
        return mask
    lengths = [Dim(1) if fits else dim for _, dim, fits in wanted]
    target = shape_vector(node, lengths, [query, key], facts, editor)
    assert target is not None  # query and key have these dimensions
    expanded = editor.insert(node, "Expand", [mask, target()], name=name, dtype=mask.dtype)
    facts.shapes[expanded] = (*shape[:-2], wanted[0][1], wanted[1][1])
    _state_shape(expanded, facts)
    return expanded
