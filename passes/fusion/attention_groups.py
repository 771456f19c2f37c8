"""Key and value heads that are repeated for the query heads, as grouped-query Attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.dimensions import Dim
from passes.fusion.attention_scope import AttentionScope, has_cache
from passes.matching import integer, is_op, producer_of
from passes.shape_rules import axes_of, reshaped

if TYPE_CHECKING:
    import onnx_ir as ir


def absorb_groups(node: ir.Node, scope: AttentionScope) -> None:
    """Let an Attention of rank 4 read key and value [B, Hkv, S, D] before they are repeated to [B, H, S, D].

    The repetition is [B, Hkv, 1, S, D] -> [B, Hkv, R, S, D] -> [B, Hkv * R, S, D], by Expand or Tile: each head serves
    R query heads in turn, which is what Attention does with fewer key than query heads. A cache that is given or
    wanted has the repeated heads, and stops that.
    """
    if len(scope.facts.shape(node.inputs[0]) or ()) != 4:
        return
    found = [unrepeated(value, scope) for value in node.inputs[1:3]]
    key, value = found
    if key is None and value is None:
        return
    reason = "" if key and value and key[1] == value[1] else "key and value heads are not repeated alike"
    if has_cache(node):
        reason = "its cache holds the repeated heads"
    if key is None or value is None or reason:
        scope.recorder.refuse(node, reason, "groups")
        return
    if not scope.recorder.may_apply(node, "groups"):
        return
    for index, (source, _) in ((1, key), (2, value)):
        old = node.inputs[index]
        node.replace_input_with(index, source)
        producer = None if old is None else old.producer()
        if producer is not None:
            scope.editor.drop(producer)


def unrepeated(value: ir.Value | None, scope: AttentionScope) -> tuple[ir.Value, int] | None:
    """Return the tensor [B, Hkv, S, D] whose heads `value` [B, Hkv * R, S, D] repeats, and R."""
    facts = scope.facts
    reshape = producer_of(value, "Reshape")
    repeat = None if reshape is None else producer_of(reshape.inputs[0], "Expand", "Tile")
    lifted = None if repeat is None else producer_of(repeat.inputs[0], "Unsqueeze", "Reshape")
    if reshape is None or repeat is None or lifted is None or lifted.inputs[0] is None:
        return None
    source, thin = facts.shape(lifted.inputs[0]), facts.shape(repeat.inputs[0])
    wide, joined = facts.shape(repeat.outputs[0]), facts.shape(value)
    if source is None or thin is None or joined is None or len(source) != 4:
        return None
    if is_op(lifted, "Unsqueeze") and axes_of(lifted, facts) != (2,):
        return None
    if thin != (source[0], source[1], Dim(1), source[2], source[3]):
        return None
    if is_op(repeat, "Tile"):
        times = facts.content(repeat.inputs[1])
        if times is None or times.fixed is None or [one for at, one in enumerate(times.fixed) if at != 2] != [1] * 4:
            return None
        wide = (thin[0], thin[1], Dim(times.fixed[2]), thin[3], thin[4])
        wanted = facts.content(reshape.inputs[1])
        if wanted is None or integer(reshape, "allowzero", 0):
            return None
        joined = reshaped(wide, wanted.elements, allow_zero=False)
    if wide is None or len(wide) != 5 or wide != (thin[0], thin[1], wide[2], thin[3], thin[4]):
        return None
    heads, count = source[1], wide[2]
    if heads is None or count is None or heads.fixed is None or count.fixed is None or None in joined:
        return None
    if joined != (source[0], Dim(heads.fixed * count.fixed), source[2], source[3]):
        return None
    return lifted.inputs[0], count.fixed
