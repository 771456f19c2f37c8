"""Attention as com.microsoft's Attention or MultiHeadAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim, Dims
from passes.editing import Editor
from passes.legalize.attention_mask import Mask, MaskWriter, mask_of
from passes.legalize.attention_projection import packed_projection, separate_biases, split_bias
from passes.legalize.contrib import concerns_contrib, has_contrib, insert_contrib, lacks_kernel
from passes.matching import constant_tensor, has_reference, input_at, integer, is_op, number
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_QUERY, _KEY, _VALUE, _MASK, _PAST_KEY, _PAST_VALUE, _LENGTHS = range(7)


@dataclass(frozen=True)
class LowerAttention(Pass):
    """Lower Attention to com.microsoft Attention or MultiHeadAttention, with the projections' biases inside.

    Attention on [B, S, H * D] with as many key heads as query heads. Where query, key and value are the three parts of
    one product x @ W + b, product and Split become part of com.microsoft Attention. Otherwise MultiHeadAttention takes
    the three, their biases, and the key/value cache. A mask that Where(seen [B, 1, 1, T], 0, h) spells is handed over
    as the integers seen [B, T] with h as filter value; any other additive mask as attention_bias. A wholly masked row
    yields 0 in Attention where the mask is of booleans or -inf, and not there: for such paddings, the result is
    multiplied by 1 or 0, computed once for all layers.
    Refuses other boolean masks and masks that may hold -inf, masks that are not provably of [B or 1, H or 1, S, T],
    causal attention of S queries to T other keys, which com.microsoft aligns at the last key, softcap, the score
    output, grouped heads, and types without a kernel.
    """

    name: ClassVar[str] = "lower-attention"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not concerns_contrib(context, "Attention", "MultiHeadAttention"):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        masks = MaskWriter(editor, facts)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is graph and is_op(node, "Attention") and not has_reference(node):
                    sizes, reason = _sizes(node, facts)
                    mask = mask_of(node, facts, sizes)
                    reason = reason or mask.reason
                    form = _form(node, facts, context)
                    reason = reason or lacks_kernel(context, form, node.inputs[0])
                    if reason:
                        recorder.refuse(node, reason)
                    elif recorder.may_apply(node, form):
                        _FORMS[form](node, mask, masks, facts)
        return recorder.result()


def _sizes(node: ir.Node, facts: ShapeFacts) -> tuple[Dims, str]:
    """Return B, H, S and T (with the cache), and why the node must stay as it is."""
    shapes = [facts.shape(node.inputs[index]) for index in (_QUERY, _KEY, _VALUE)]
    nothing: Dims = (None, None, None, None)
    if any(shape is None or len(shape) != 3 for shape in shapes):
        return nothing, "query, key and value are not of rank 3"
    query, key, value = (shape for shape in shapes if shape is not None)
    heads = integer(node, "q_num_heads", 0)
    if heads == 0 or heads != integer(node, "kv_num_heads", 0):
        return nothing, "the heads of query and key differ in number"
    if number(node, "softcap", 0.0) or integer(node, "qk_matmul_output_mode", 0):
        return nothing, "it caps its scores or gives them"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[3:]):
        return nothing, "its scores are read"
    if input_at(node, _LENGTHS) is not None:
        return nothing, "it takes the lengths of the keys"
    if "softmax_precision" in node.attributes:
        return nothing, "its softmax has a precision of its own"
    if None in (query[0], query[2], key[2]) or query[0] != key[0] or key[:2] != value[:2] or query[2] != key[2]:
        return nothing, "batch, length and width of query, key and value are not provably equal"
    return _sized(node, query, key, value, facts)


def _sized(node: ir.Node, query: Dims, key: Dims, value: Dims, facts: ShapeFacts) -> tuple[Dims, str]:
    past = input_at(node, _PAST_KEY)
    is_cached = past is not None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:3])
    keys = key[1]
    if past is not None:
        keys = _mask_keys(node, facts)
    sizes = (query[0], Dim(integer(node, "q_num_heads", 0)), query[1], keys)
    if is_cached and value[2] != key[2]:
        return sizes, "the heads of a cache of key and value differ in size"
    if (past is None) != (input_at(node, _PAST_VALUE) is None):
        return sizes, "it has half a cache"
    if integer(node, "is_causal", 0) and past is None and (query[1] is None or query[1] != key[1]):
        return sizes, "it is causal, and there may be more keys than queries"
    return sizes, ""


def _mask_keys(node: ir.Node, facts: ShapeFacts) -> Dim | None:
    """Return T beside a cache: the sum of both lengths, which the mask names; None where the mask has 1 for it."""
    shape = facts.shape(input_at(node, _MASK))
    return None if not shape or shape[-1] == Dim(1) else shape[-1]


def _form(node: ir.Node, facts: ShapeFacts, context: Context) -> str:
    packed = packed_projection(node, facts) if has_contrib(context, "Attention") else None
    has_cache = len(node.inputs) > _PAST_KEY or any(
        output.uses() or output.is_graph_output() for output in node.outputs[1:]
    )
    return "Attention" if packed is not None and not has_cache else "MultiHeadAttention"


def _attributes(node: ir.Node, mask: Mask) -> dict[str, int | float]:
    found: dict[str, int | float] = {"num_heads": integer(node, "q_num_heads", 0)}
    if number(node, "scale", 0.0):
        found["scale"] = number(node, "scale", 0.0)
    if integer(node, "is_causal", 0):
        found["unidirectional"] = 1
    if mask.padding is not None:
        found["mask_filter_value"] = mask.hidden
    return found


def _to_attention(node: ir.Node, mask: Mask, masks: MaskWriter, facts: ShapeFacts) -> None:
    """Attention(x, weights, bias, mask_index, past, attention_bias)."""
    packed = packed_projection(node, facts)
    assert packed is not None
    attributes: dict[str, Any] = _attributes(node, mask)
    widths = [_fixed(facts, value) for value in node.inputs[:3]]
    if widths[_VALUE] != widths[_KEY]:
        attributes["qkv_hidden_sizes"] = widths
    inputs = [packed.x, packed.weight, packed.bias, masks.padding(node, mask), None, masks.bias(node, mask)]
    output = node.outputs[0]
    fused = insert_contrib(masks.editor, node, "Attention", inputs, like=output, attributes=attributes)
    masks.editor.take_over(output, masks.zeroed(node, mask, fused))


def _fixed(facts: ShapeFacts, value: ir.Value | None) -> int:
    shape = facts.shape(value)
    assert shape is not None
    assert shape[-1] is not None
    return shape[-1].factor


def _to_multi_head(node: ir.Node, mask: Mask, masks: MaskWriter, facts: ShapeFacts) -> None:
    """MultiHeadAttention(query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value)."""
    query, bias = _without_bias(node, masks.editor, facts)
    inputs = [*query, bias, masks.padding(node, mask), masks.bias(node, mask)]
    inputs += [input_at(node, _PAST_KEY), input_at(node, _PAST_VALUE)]
    read = [bool(output.uses() or output.is_graph_output()) for output in node.outputs]
    fused = insert_contrib(
        masks.editor,
        node,
        "MultiHeadAttention",
        inputs,
        like=node.outputs[0],
        attributes=_attributes(node, mask),
        outputs=3 if any(read[1:]) else 1,
    )
    new = fused.producer()
    assert new is not None
    for old, kept in zip(node.outputs[1:3], new.outputs[1:], strict=False):
        kept.name, kept.type = masks.editor.fresh_name(f"{node.outputs[0].name}_cache"), old.type
        masks.editor.take_over(old, kept)
    masks.editor.take_over(node.outputs[0], masks.zeroed(node, mask, fused))


def _without_bias(node: ir.Node, editor: Editor, facts: ShapeFacts) -> tuple[list[ir.Value | None], ir.Value | None]:
    """Return query, key and value before their biases were added, and the biases as one constant."""
    import numpy as np

    plain = list(node.inputs[:3])
    found = split_bias(node, facts)
    if found is not None:
        split, product, bias = found
        add = split.inputs[0].producer() if split.inputs[0] is not None else None
        split.replace_input_with(0, product)
        if add is not None:
            editor.drop(add)
        return plain, bias
    separate = separate_biases(node, facts)
    if separate is None:
        return plain, None
    products, biases = separate
    tensors = [constant_tensor(bias) for bias in biases]
    arrays = [tensor.numpy() for tensor in tensors if tensor is not None]
    return [*products], editor.constant(np.concatenate(arrays), f"{biases[0].name}_qkv")


_FORMS = {"Attention": _to_attention, "MultiHeadAttention": _to_multi_head}
