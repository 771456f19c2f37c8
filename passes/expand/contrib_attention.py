"""Attention and rotary embeddings of com.microsoft, as the standard operators of these names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from passes.dimensions import Dim
from passes.expand.contrib_writer import Form, Replacements, Writer, is_read
from passes.matching import input_at, integer, integers, number
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

_HIDDEN = -10000.0  # what is added to the scores of hidden keys, where the attribute is absent
_NEEDS = ("Attention",)


def attention(write: Writer, facts: ShapeFacts) -> Form:
    """(x, weights, bias, mask, past, bias of scores) to a product, its parts, and Attention."""
    node = write.node
    if any(input_at(node, place) is not None for place in (4, 6)) or is_read(node, 1):
        return Form(reason="it has a cache that holds key and value in one")
    if integer(node, "do_rotary", 0):
        return Form(reason="it rotates query and key itself")
    shape, width = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if shape is None or len(shape) != 3 or width is None or width[-1] is None or width[-1].fixed is None:
        return Form(reason="its input is not of rank 3, or the width of its weights is not known")
    sizes = list(integers(node, "qkv_hidden_sizes") or [width[-1].factor // 3] * 3)
    reason = _unclear_mask(input_at(node, 3), facts)

    def written() -> Replacements:
        product = write("MatMul", node.inputs[0], node.inputs[1], suffix="product")
        bias = input_at(node, 2)
        product = product if bias is None else write("Add", product, bias, suffix="biased")
        parts = write.parts(product, sizes, -1, "part")
        mask = _mask(write, parts[0], input_at(node, 3), input_at(node, 5))
        return [(node.outputs[0], write("Attention", *parts, *mask, suffix="attended", **_attributes(node)))]

    return Form(written, _NEEDS, reason)


def multi_head_attention(write: Writer, facts: ShapeFacts) -> Form:
    """(query, key, value, bias, padding, bias of scores, past key, past value) to Attention."""
    node = write.node
    shapes = [facts.shape(input_at(node, place)) for place in range(3)]
    if any(shape is None or len(shape) != 3 for shape in shapes):
        return Form(reason="query, key and value are not three tensors of rank 3")
    query, key, _ = (shape for shape in shapes if shape is not None)
    if any(input_at(node, place) is not None for place in (8, 9)) or is_read(node, 3):
        return Form(reason="its cache shares a buffer, or its scores are read")
    past = [input_at(node, 6), input_at(node, 7)]
    if (past[0] is None) != (past[1] is None):
        return Form(reason="it has half a cache")
    is_square = past[0] is None and query[1] is not None and query[1] == key[1]
    if integer(node, "unidirectional", 0) and not is_square:
        return Form(reason="it is causal, and there may be more keys than queries")
    bias = input_at(node, 3)
    widths = [shape[-1].fixed for shape in shapes if shape is not None and shape[-1] is not None]
    if bias is not None and (len(widths) != 3 or None in widths):
        return Form(reason="the widths of query, key and value are not known")
    reason = _unclear_mask(input_at(node, 4), facts)

    def written() -> Replacements:
        sides: list[ir.Value | None] = list(node.inputs[:3])
        if bias is not None:
            biases = write.parts(bias, [width for width in widths if width is not None], 0, "bias")
            names = ("query", "key", "value")
            sides = [
                write("Add", side, part, suffix=name) for side, part, name in zip(sides, biases, names, strict=True)
            ]
        mask = _mask(write, node.inputs[0], input_at(node, 4), input_at(node, 5))
        given: list[ir.Value | None] = [*sides, *mask]
        if past[0] is not None:
            given = [*sides, mask[0] if mask else None, *past]
        count = 3 if is_read(node, 1, 2) else 1
        name = f"{node.outputs[0].name}_attended"
        first = write.editor.insert(
            node, "Attention", given, name=name, attributes=_attributes(node), dtype=write.dtype, outputs=count
        )
        new = first.producer()
        assert new is not None
        return [pair for pair in zip(node.outputs, new.outputs, strict=False) if is_read(node, pair[0].index() or 0)]

    return Form(written, _NEEDS, reason)


def _attributes(node: ir.Node) -> dict[str, Any]:
    heads = integer(node, "num_heads", 0)
    found: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads}
    if number(node, "scale", 0.0):
        found["scale"] = number(node, "scale", 0.0)
    if integer(node, "unidirectional", 0):
        found["is_causal"] = 1
    return found


def _unclear_mask(mask: ir.Value | None, facts: ShapeFacts) -> str:
    shape = facts.shape(mask)
    return "" if mask is None or (shape is not None and len(shape) == 2) else "its mask is not known to be of [B, T]"


def _mask(write: Writer, query: ir.Value | None, padding: ir.Value | None, bias: ir.Value | None) -> list[ir.Value]:
    """Return what is added to the scores, [B, 1, S, T] or as `bias` is, in a list; or an empty one."""
    import onnx_ir as ir

    if padding is None:
        return [] if bias is None else [bias]
    assert padding.dtype is not None
    zero = write.editor.constant(_zero(padding.dtype), f"{padding.name}_zero")
    seen = write("Greater", padding, zero, suffix="seen", dtype=ir.DataType.BOOL)  # [B, T]
    hidden = write.number(number(write.node, "mask_filter_value", _HIDDEN), "hidden")
    mask = write("Where", seen, write.number(0.0, "shown"), hidden, suffix="mask")
    mask = write("Unsqueeze", mask, write.integers([1, 2], "mask_axes"), suffix="mask_4d")  # [B, 1, 1, T]
    if bias is not None:
        return [write("Add", mask, bias, suffix="mask_sum")]
    length = write("Shape", query, suffix="length", dtype=ir.DataType.INT64, start=1, end=2)
    rows = write("Concat", length, write.integers([1], "one"), suffix="rows", dtype=ir.DataType.INT64, axis=0)
    return [write("Expand", mask, rows, suffix="mask_rows")]  # [B, 1, S, T]


def _zero(dtype: ir.DataType) -> Any:
    import numpy as np

    return np.array(0, dtype.numpy())


def rotary_embedding(write: Writer, facts: ShapeFacts) -> Form:
    """(x, position ids, cosines, sines) to RotaryEmbedding; one position id is that of the first token."""
    node = write.node
    data, places, cosines = (facts.shape(input_at(node, place)) for place in range(3))
    if number(node, "scale", 1.0) != 1 or integer(node, "is_packed_batching", 0):
        return Form(reason="it scales, or its batch is packed")
    if data is None or len(data) not in (3, 4) or places is None or cosines is None:
        return Form(reason="the ranks of its inputs are not known")
    if len(places) != 2 and places not in ((), (Dim(1),)):
        return Form(reason="its position ids are neither of [B, S] nor one")
    heads, half, width = integer(node, "num_heads", 0), cosines[-1], data[-1]
    if len(data) == 3 and not heads:
        if half is None or half.fixed is None or width is None or width.fixed is None:
            return Form(reason="the number of heads is not known")
        heads = width.factor // (2 * half.factor)
    attributes: dict[str, Any] = {"interleaved": integer(node, "interleaved", 0)}
    attributes |= {"num_heads": heads} if len(data) == 3 else {}
    if size := integer(node, "rotary_embedding_dim", 0):
        attributes["rotary_embedding_dim"] = size

    def written() -> Replacements:
        ids = node.inputs[1] if len(places) == 2 else _counted(write, axes=(0, 1) if len(data) == 3 else (0, 2))
        inputs = [node.inputs[0], node.inputs[2], node.inputs[3], ids]
        return [(node.outputs[0], write("RotaryEmbedding", *inputs, suffix="rotated", **attributes))]

    return Form(written, ("RotaryEmbedding",))


def _counted(write: Writer, *, axes: Sequence[int]) -> ir.Value:
    """Return the position ids [B, S] that count from the one that is given."""
    import onnx_ir as ir

    data, first = write.node.inputs[0], write.node.inputs[1]
    integer64 = ir.DataType.INT64
    batch, length = (
        write("Shape", data, suffix=f"axis_{axis}", dtype=integer64, start=axis, end=axis + 1) for axis in axes
    )
    scalar = write("Squeeze", length, suffix="length", dtype=integer64)
    places = write(
        "Range", write.integers(0, "begin"), scalar, write.integers(1, "step"), suffix="range", dtype=integer64
    )
    places = write("Add", places, first, suffix="places", dtype=integer64)
    shape = write("Concat", batch, length, suffix="places_shape", dtype=integer64, axis=0)
    return write("Expand", places, shape, suffix="position_ids", dtype=integer64)
