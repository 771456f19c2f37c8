"""Attention as matrix products and a Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.dimensions import Dim, quotient
from passes.editing import Editor
from passes.expand.causal_mask import CausalMasks
from passes.matching import constant_array, constant_number, input_at, integer, is_op, number, opset_of, producer_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class ExpandAttention(Pass):
    """Write Attention out as MatMul, Softmax, MatMul, where the target has no kernel for it.

    Leaner than the body that ONNX defines: the scale is folded into the query, masks are made additive once, and the
    rule that a wholly masked row yields 0 costs one Mul on the result, or nothing where the mask cannot hide a row.
    A cache is appended by Concat. The mask of causal attention is made once for all nodes of its lengths, by Trilu.
    Refuses causal attention with a cache or another mask, a cache of stated lengths, the score output, a softmax in
    another precision, and from opset 24 on a mask that may be shorter than the keys; `expand-functions` takes those.
    """

    name: ClassVar[str] = "expand-attention"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if context.capabilities.has_kernel("Attention"):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            causal = CausalMasks(facts, editor)
            for node in list(graph):
                if is_op(node, "Attention"):
                    _expand(node, facts, recorder, editor, causal, opset=node.version or opset_of(model))
        if recorder.applied:
            infer_shapes(model)  # states the shapes of what was written
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Inserts the expansion of one node."""

    node: ir.Node
    editor: Editor

    def __call__(self, op_type: str, *inputs: ir.Value | None, suffix: str, **attributes: Any) -> ir.Value:
        output = self.node.outputs[0]
        return self.editor.insert(
            self.node, op_type, inputs, name=f"{output.name}_{suffix}", attributes=attributes, dtype=output.dtype
        )

    def integers(self, numbers: Sequence[int], suffix: str) -> ir.Value:
        import numpy as np

        return self.editor.constant(np.array(numbers, dtype=np.int64), f"{self.node.outputs[0].name}_{suffix}")

    def number(self, value: float, suffix: str) -> ir.Value:
        import numpy as np

        dtype = self.node.inputs[0].dtype if self.node.inputs[0] is not None else None
        assert dtype is not None
        return self.editor.constant(np.array(value, dtype=dtype.numpy()), f"{self.node.outputs[0].name}_{suffix}")


def _refusal(node: ir.Node, facts: ShapeFacts) -> str:
    if integer(node, "is_causal", 0) and any(input_at(node, place) is not None for place in (3, 4)):
        return "it is causal and has a mask or a cache"
    if len(node.outputs) > 3 and _is_wanted(node.outputs[3]):
        return "it gives its scores"
    if input_at(node, 6) is not None:
        return "it has a key/value cache of stated lengths"
    if "softmax_precision" in node.attributes:
        return "its softmax has a precision of its own"
    query, key, value = (facts.shape(node.inputs[index]) for index in range(3))
    if query is None or key is None or value is None or node.inputs[0] is None or node.inputs[0].dtype is None:
        return "the shape or type of its inputs is not known"
    head = query[-1] if len(query) == 4 else quotient(query[-1], Dim(integer(node, "q_num_heads", 1)))
    if head is None or head.fixed is None:
        return "the size of a head is not known"
    heads = (query[1], key[1]) if len(query) == 4 else (Dim(1), Dim(1))
    if any(dim is None or dim.fixed is None for dim in heads):
        return "the number of heads is not known"
    return ""


def _is_wanted(output: ir.Value) -> bool:
    return bool(output.uses()) or output.is_graph_output()


def _appended(write: _Writer, node: ir.Node, place: int, own: ir.Value | None) -> ir.Value | None:
    """Return past and own key (place 1) or value (2), [B, Hkv, P + S, D], which is also what the node gives there."""
    past = input_at(node, place + 3)
    part = "key" if place == 1 else "value"
    whole = own if past is None else write("Concat", past, own, suffix=f"{part}_present", axis=2)
    if len(node.outputs) > place and _is_wanted(node.outputs[place]):
        # take_over gives the name of the output away: what is read here further on is that value
        present = write("Identity", whole, suffix=f"{part}_given") if past is None else whole
        assert present is not None
        write.editor.take_over(node.outputs[place], present)
    return whole


def _short_mask(node: ir.Node, facts: ShapeFacts, opset: int) -> str:
    """Return why the mask may have fewer columns than there are keys: opset 24 hides the rest of the keys then."""
    mask, keys = facts.shape(input_at(node, 3)), facts.shape(node.inputs[1])
    if opset < 24 or input_at(node, 3) is None:
        return ""
    if input_at(node, 4) is None and mask and keys and mask[-1] is not None and mask[-1] == keys[-2]:
        return ""
    return "its mask may be shorter than the keys"


def _expand(
    node: ir.Node,
    facts: ShapeFacts,
    recorder: Recorder,
    editor: Editor,
    causal: CausalMasks,
    *,
    opset: int,
) -> None:
    reason = _refusal(node, facts) or _short_mask(node, facts, opset)
    is_causal = bool(integer(node, "is_causal", 0))
    causal_mask = causal.mask(node, hidden=_hidden(node)) if is_causal and not reason else None
    if is_causal and not reason and causal_mask is None:
        reason = "it is causal, and its lengths are not known"
    if reason:
        recorder.refuse(node, reason)
        return
    if not recorder.may_apply(node):
        return
    write = _Writer(node, editor)
    query_shape, key_shape = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    assert query_shape is not None
    assert key_shape is not None
    is_flat = len(query_shape) == 3
    heads, kv_heads, size = _sizes(node, query_shape, key_shape)
    query, key, value = node.inputs[:3]
    repeat = heads // kv_heads
    has_cache = input_at(node, 4) is not None or any(_is_wanted(output) for output in node.outputs[1:])
    if is_flat:
        query, key, value = (
            write("Reshape", tensor, write.integers([0, 0, count, -1], f"{part}_split"), suffix=part)
            for tensor, part, count in ((query, "query", heads), (key, "key", kv_heads), (value, "value", kv_heads))
        )
        query = write("Transpose", query, suffix="query_heads", perm=[0, 2, 1, 3])
        value = write("Transpose", value, suffix="value_heads", perm=[0, 2, 1, 3])
        is_kept = repeat > 1 or has_cache
        key = write("Transpose", key, suffix="key_heads", perm=[0, 2, 1, 3] if is_kept else [0, 2, 3, 1])
    if has_cache:
        key, value = (_appended(write, node, place, own) for place, own in ((1, key), (2, value)))
    if repeat > 1:
        key, value = (
            _repeated(write, tensor, repeat, heads, part) for tensor, part in ((key, "key"), (value, "value"))
        )
    if not is_flat or repeat > 1 or has_cache:
        key = write("Transpose", key, suffix="key_transposed", perm=[0, 1, 3, 2])
    scale = number(node, "scale", 0.0) or 1 / math.sqrt(size)
    if scale != 1:
        query = write("Mul", query, write.number(scale, "scale"), suffix="query_scaled")
    scores = write("MatMul", query, key, suffix="scores")
    softcap = number(node, "softcap", 0.0)
    if softcap:
        cap = write.number(softcap, "softcap")
        scores = write("Div", scores, cap, suffix="scores_divided")
        scores = write("Mul", write("Tanh", scores, suffix="scores_tanh"), cap, suffix="scores_capped")
    if causal_mask is not None:
        scores = write("Add", scores, causal_mask(), suffix="scores_causal")
    scores, kept_rows, needs_guard = _masked(write, node, scores)
    weights = write("Softmax", scores, suffix="weights", axis=-1)
    if needs_guard:
        weights = write("Where", _is_nan(write, weights), write.number(0.0, "zero"), weights, suffix="weights_guarded")
    result = write("MatMul", weights, value, suffix="heads")
    if kept_rows is not None:
        result = write("Mul", result, kept_rows, suffix="rows")
    if is_flat:
        swapped = write("Transpose", result, suffix="merged", perm=[0, 2, 1, 3])
        result = write("Reshape", swapped, write.integers([0, 0, -1], "merge"), suffix="flat")
    editor.take_over(node.outputs[0], result)


def _sizes(node: ir.Node, query: Sequence[Dim | None], key: Sequence[Dim | None]) -> tuple[int, int, int]:
    """Return the heads of the query and of the key, and the size of one head."""
    if len(query) == 3:
        heads, kv_heads = integer(node, "q_num_heads", 1), integer(node, "kv_num_heads", 1)
        width = query[-1]
        return heads, kv_heads, (width.factor if width is not None else 1) // heads
    fixed = [dim.factor if dim is not None else 1 for dim in (query[1], key[1], query[3])]
    return fixed[0], fixed[1], fixed[2]


def _repeated(write: _Writer, tensor: ir.Value | None, repeat: int, heads: int, part: str) -> ir.Value:
    """[B, Hkv, S, D] -> [B, Hkv, 1, S, D] -> [B, Hkv, R, S, D] -> [B, H, S, D]: each head serves R query heads."""
    wide = write("Unsqueeze", tensor, write.integers([2], f"{part}_axis"), suffix=f"{part}_wide")
    wide = write("Expand", wide, write.integers([1, 1, repeat, 1, 1], f"{part}_times"), suffix=f"{part}_repeated")
    # [B, Hkv, R, S, D]: the last dimension is fixed by the heads, so that one -1 is left for S
    moved = write("Transpose", wide, suffix=f"{part}_moved", perm=[0, 3, 1, 2, 4])
    joined = write("Reshape", moved, write.integers([0, 0, heads, -1], f"{part}_join"), suffix=f"{part}_joined")
    return write("Transpose", joined, suffix=f"{part}_all", perm=[0, 2, 1, 3])


def _is_nan(write: _Writer, value: ir.Value) -> ir.Value:
    import onnx_ir as ir

    test = write("IsNaN", value, suffix="weights_nan")
    test.type = ir.TensorType(ir.DataType.BOOL)
    return test


def _masked(write: _Writer, node: ir.Node, scores: ir.Value) -> tuple[ir.Value, ir.Value | None, bool]:
    """Return masked scores, 1 or 0 by row for not wholly masked (None for all 1), and whether NaN rows may come up."""
    import onnx_ir as ir

    mask = input_at(node, 3)
    if mask is None:
        return scores, None, False
    if mask.dtype != ir.DataType.BOOL:
        return write("Add", scores, mask, suffix="scores_masked"), None, not _is_finite(mask)
    # A number that hides a key, but leaves a wholly masked row finite; such rows are multiplied by 0 at the end. (A
    # Where with the zero of the mask there makes OpenVINO 2026.4 fail: it compiles the two with one shared scalar.)
    hidden = write.number(_hidden(node), "hidden")
    additive = write("Where", mask, write.number(0.0, "zero"), hidden, suffix="mask")
    assert scores.dtype is not None
    kept = write("Cast", mask, suffix="mask_number", to=int(scores.dtype))
    kept = write("ReduceMax", kept, write.integers([-1], "mask_axis"), suffix="mask_any", keepdims=1)
    return write("Add", scores, additive, suffix="scores_masked"), kept, False


def _hidden(node: ir.Node) -> float:
    return -1e30 if _is_wide(node) else -3e4


def _is_wide(node: ir.Node) -> bool:
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    return dtype is not None and dtype.name in ("FLOAT", "BFLOAT16", "DOUBLE")


def _is_finite(mask: ir.Value) -> bool:
    """Return whether an additive mask cannot hold -inf."""
    import numpy as np

    array = constant_array(mask, max_bytes=1 << 24)
    if array is not None:
        return bool(np.isfinite(array.astype(np.float64)).all())
    source = producer_of(mask, "Expand", "Unsqueeze", "Reshape", "Identity")
    if source is not None and source.inputs[0] is not None:
        return _is_finite(source.inputs[0])
    where = producer_of(mask, "Where")
    if where is None:
        return False
    return all((found := constant_number(value)) is not None and math.isfinite(found) for value in where.inputs[1:])
