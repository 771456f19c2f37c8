"""Attention on [B, H, S, D] between a head split and a head merge, as Attention on [B, S, H * D]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.dimensions import Dim, product
from passes.matching import integers, other_readers, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.editing import Editor
    from passes.shapes import ShapeFacts

_SWAP_HEADS = (0, 2, 1, 3)


def absorb_heads(node: ir.Node, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    """Rewrite one Attention of rank 4 to rank 3 where all three inputs are split and the output is merged."""
    output = node.outputs[0]
    if len(node.outputs) > 1 or any(value is not None for value in node.inputs[4:]) or "q_num_heads" in node.attributes:
        return
    splits = [_split(value, facts) for value in node.inputs[:3]]
    if all(split is None for split in splits):
        return
    found = [split for split in splits if split is not None]
    if len(found) < 3:
        at = splits.index(None)
        recorder.refuse(node, f"the {('query', 'key', 'value')[at]} does not come from a head split", "heads")
        return
    if found[1][1] != found[2][1]:
        recorder.refuse(node, f"key has {found[1][1]} heads and value {found[2][1]}", "heads")
        return
    merge = _merge(node, facts)
    if isinstance(merge, str):
        recorder.refuse(node, merge, "heads")
        return
    if not recorder.may_apply(node, "heads"):
        return
    last = merge.outputs[0]
    # the new node stands where the merge was: its inputs all come before that
    fused = editor.insert(
        merge,
        "Attention",
        [*(split[0] for split in found), *node.inputs[3:4]],
        name=str(output.name),
        attributes={
            **node.attributes,
            "q_num_heads": found[0][1],
            "kv_num_heads": found[1][1],
        },
        like=last,
    )
    shape = facts.shape(last)
    if shape is not None:
        facts.shapes[fused] = shape
    editor.take_over(last, fused)


def _split(value: ir.Value | None, facts: ShapeFacts) -> tuple[ir.Value, int] | None:
    """Return the [B, S, H * D] tensor behind Transpose(Reshape(..)), and H."""
    transpose = producer_of(value, "Transpose")
    if transpose is None or integers(transpose, "perm") != _SWAP_HEADS:
        return None
    reshape = producer_of(transpose.inputs[0], "Reshape")
    if reshape is None:
        return None
    flat, view = facts.shape(reshape.inputs[0]), facts.shape(reshape.outputs[0])
    source = reshape.inputs[0]
    if flat is None or view is None or source is None or len(flat) != 3 or len(view) != 4:
        return None
    heads = view[2]
    if None in (*flat, *view) or flat[:2] != view[:2] or heads is None or heads.fixed is None:
        return None
    return (source, heads.fixed) if product(view[2:]) == flat[2] else None


def _merge(node: ir.Node, facts: ShapeFacts) -> ir.Node | str:
    """Return the Reshape that merges the heads of the output, or why there is none."""
    output = node.outputs[0]
    readers = output.consumers()
    if not readers or readers[0].op_type != "Transpose" or integers(readers[0], "perm") != _SWAP_HEADS:
        return "the heads of the result are not merged"
    reason = other_readers(output, readers[0])
    if reason:
        return reason
    swapped = readers[0].outputs[0]
    inner = swapped.consumers()
    if (
        not inner
        or inner[0].op_type != "Reshape"
        or inner[0].inputs[0] is not swapped
        or inner[0].graph is not node.graph
    ):
        return "the heads of the result are not merged"
    reason = other_readers(swapped, inner[0])
    if reason:
        return reason
    before, after = facts.shape(swapped), facts.shape(inner[0].outputs[0])
    if before is None or after is None or len(after) != 3 or None in (*before, *after):
        return "the shape of the merged result is not known"
    if before[:2] != after[:2] or product(before[2:]) != after[2] or after[2] == Dim(0):
        return "the result is reshaped to something else than [B, S, H * D]"
    return inner[0]
