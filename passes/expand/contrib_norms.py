"""Norms of com.microsoft, with the sum that they take of a residual or of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passes.expand.contrib_writer import Form, Replacements, Writer, is_read
from passes.matching import input_at, integer, number
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

_EPSILON = 1e-12  # of the fused norms, where the attribute is absent
_FLOAT32 = 1


def skip_norm(write: Writer, facts: ShapeFacts) -> Form:
    """(input, skip, scale, shift, bias), or without shift for the simplified one, to a sum and its norm."""
    node = write.node
    is_simple = node.op_type == "SkipSimplifiedLayerNormalization"
    if is_read(node, 1, 2):
        return Form(reason="the mean or deviation of the norm is read")
    shift, bias = (None, input_at(node, 3)) if is_simple else (input_at(node, 3), input_at(node, 4))
    kind = "RMSNormalization" if is_simple else "LayerNormalization"

    def written() -> Replacements:
        total = node.inputs[0] if bias is None else write("Add", node.inputs[0], bias, suffix="biased")
        total = write("Add", total, node.inputs[1], suffix="total")
        inputs = [total, input_at(node, 2)] if shift is None else [total, input_at(node, 2), shift]
        result = write(kind, *inputs, suffix="normal", axis=-1, epsilon=number(node, "epsilon", _EPSILON))
        return [*([(node.outputs[3], total)] if is_read(node, 3) else []), (node.outputs[0], result)]

    return Form(written, (kind,))


def rms_norm(write: Writer, facts: ShapeFacts) -> Form:
    """(input, scale) to RMSNormalization."""
    node = write.node
    if is_read(node, 1):
        return Form(reason="the deviation of the norm is read")
    if integer(node, "stash_type", _FLOAT32) != _FLOAT32:
        return Form(reason="the norm computes in another type than float32")

    def written() -> Replacements:
        attributes: dict[str, Any] = {"axis": integer(node, "axis", -1), "epsilon": number(node, "epsilon", 1e-5)}
        result = write("RMSNormalization", node.inputs[0], node.inputs[1], suffix="normal", **attributes)
        return [(node.outputs[0], result)]

    return Form(written, ("RMSNormalization",))


def embedding_norm(write: Writer, facts: ShapeFacts) -> Form:
    """(ids, segment ids, words, positions, segments, scale, shift, mask, position ids) to Gathers and a norm."""
    node = write.node
    if is_read(node, 1):
        return Form(reason="the lengths that it counts from its mask are read")
    ids, segment_ids, words, positions, segments, scale, shift = node.inputs[:7]
    position_ids = input_at(node, 8)

    def written() -> Replacements:
        total = write("Gather", words, ids, suffix="words", axis=0)
        total = write("Add", total, _positions(), suffix="placed")
        if segment_ids is not None and segments is not None:
            total = write("Add", total, write("Gather", segments, segment_ids, suffix="segments"), suffix="total")
        attributes: dict[str, Any] = {"axis": -1, "epsilon": number(node, "epsilon", _EPSILON)}
        result = write("LayerNormalization", total, scale, shift, suffix="normal", **attributes)
        return [*([(node.outputs[2], total)] if is_read(node, 2) else []), (node.outputs[0], result)]

    def _positions() -> ir.Value:
        import onnx_ir as ir

        if position_ids is not None:
            return write("Gather", positions, position_ids, suffix="positions")
        length = write("Shape", ids, suffix="length", dtype=ir.DataType.INT64, start=1, end=2)
        zero = write.integers([0], "zero")
        return write("Slice", positions, zero, length, zero, suffix="positions")  # [S, H]

    return Form(written, ("LayerNormalization",))
