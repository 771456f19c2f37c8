"""Key and value that are appended to a cache, as Attention's past and present."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.fusion.attention_scope import AttentionScope
from passes.matching import input_at, integer, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir


def absorb_cache(node: ir.Node, scope: AttentionScope) -> ir.Node:
    """Return the Attention that appends to the cache itself; `node` where it stays.

    Concat([past, key], axis=2) of [B, Hkv, S, D] and the same of the value become the inputs past_key and past_value;
    whatever read the appended tensors, outputs of the graph mostly, reads present_key and present_value.
    """
    facts, rank = scope.facts, len(scope.facts.shape(node.inputs[0]) or ())
    if rank != 4 or any(value is not None for value in node.inputs[4:]) or len(node.outputs) > 1:
        return node
    appended = [_appended(value) for value in node.inputs[1:3]]
    key, value = appended
    if key is None or value is None:
        return node
    reason = _refusal(node, key, value, scope)
    if reason:
        scope.recorder.refuse(node, reason, "cache")
        return node
    if not scope.recorder.may_apply(node, "cache"):
        return node
    output = node.outputs[0]
    new = scope.insert(
        node,
        "Attention",
        [node.inputs[0], key.inputs[1], value.inputs[1], input_at(node, 3), key.inputs[0], value.inputs[0]],
        name=str(output.name),
        shape=facts.shape(output),
        dtype=output.dtype,
        attributes=node.attributes,
        outputs=3,
    )
    fused = new.producer()
    assert fused is not None
    presents = [(concat.outputs[0], fused.outputs[place]) for place, concat in ((1, key), (2, value))]
    scope.editor.take_over(output, new)
    for old, present in presents:
        shape = facts.shape(old)
        present.type = old.type
        present.shape = None
        if shape is not None:
            scope.state_shape(present, shape)
        scope.editor.take_over(old, present)
    return fused


def _appended(value: ir.Value | None) -> ir.Node | None:
    """Return the Concat of two tensors along the sequence, [B, H, S, D]."""
    concat = producer_of(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or integer(concat, "axis", 0) not in (2, -2):
        return None
    return concat


def _refusal(node: ir.Node, key: ir.Node, value: ir.Node, scope: AttentionScope) -> str:
    if integer(node, "is_causal", 0):
        return "it is causal from the first key on, and a cache shifts that"
    for concat in (key, value):
        past, new = (scope.facts.shape(part) for part in concat.inputs)
        if past is None or new is None or len(past) != 4 or len(new) != 4:
            return "the shapes of cache and key are not known"
        if None in (past[1], new[1], past[3], new[3]) or (past[1], past[3]) != (new[1], new[3]):
            return "the heads of the cache are not known to be those of the key"
        if any(reader is not node for reader in concat.outputs[0].consumers()):
            others = [str(reader.name) for reader in concat.outputs[0].consumers() if reader is not node]
            return f"the appended tensor also feeds {', '.join(others[:3])}"
        if concat.graph is not node.graph:
            return "the cache is appended outside this graph"
    # one present per tensor: two Attention nodes that read one appended tensor are refused above
    return "key and value are one tensor" if key is value else ""
