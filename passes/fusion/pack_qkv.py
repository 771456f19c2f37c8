"""Query, key and value projections as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.dimensions import plain
from passes.editing import Editor
from passes.fusion.packed_weight import packed_bias, packed_weight
from passes.matching import constant_tensor, is_op, operand_pairs, other_readers, producer_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class PackQkv(Pass):
    """Compute an Attention's query, key and value by one MatMul and a Split, where all three project the same tensor.

    x [B, S, K] @ [K, Nq], [K, Nk], [K, Nv] becomes x @ [K, Nq + Nk + Nv]; a bias that only some have is 0 for the
    others. A RotaryEmbedding between projection and Attention stays. Where key and value alone project one tensor
    (cross attention), they are packed if one has a bias: without it no node would be saved. The packed weights are read
    when the model is saved, one at a time, so that they take no memory.
    Refuses when the product before a bias has another reader, a weight or bias is not a constant of the fitting shape,
    or the packed weight would have more than `max_bytes` bytes: it is stored anew, while the weights that no pass
    changes are linked or copied by the file system.
    """

    max_bytes: int = 1 << 26

    name: ClassVar[str] = "pack-qkv"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            place = {node: index for index, node in enumerate(graph)}
            for node in list(graph):
                if node.graph is graph and is_op(node, "Attention") and "q_num_heads" in node.attributes:
                    _pack(node, place, facts, recorder, editor, max_bytes=self.max_bytes)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Projection:
    source: ir.Value
    weight: ir.Value  # [K, N]
    bias: ir.Value | None  # [N]
    nodes: tuple[ir.Node, ...]

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


def _projection(value: ir.Value | None) -> _Projection | None:
    rotary = producer_of(value, "RotaryEmbedding")
    value = value if rotary is None else rotary.inputs[0]
    if value is None:
        return None
    add, bias, product = producer_of(value, "Add"), None, value
    if add is not None:
        for side, other in operand_pairs(add):
            if producer_of(side, "MatMul") is not None and constant_tensor(other) is not None:
                product, bias = side, other
    matmul = producer_of(product, "MatMul")
    if matmul is None or matmul.inputs[0] is None or matmul.inputs[1] is None:
        return None
    if (add is not None and bias is None) or constant_tensor(matmul.inputs[1]) is None:
        return None
    return _Projection(matmul.inputs[0], matmul.inputs[1], bias, (matmul,) if add is None else (matmul, add))


def _packable(node: ir.Node) -> list[_Projection]:
    """Return the projections that share their source: all three, or those of key and value; none where it is no use."""
    found = [_projection(value) for value in node.inputs[:3]]
    if None in found[1:]:
        return []
    known = [projection for projection in found if projection is not None]
    if len(known) == 3 and all(projection.source is known[0].source for projection in known):
        return known
    key, value = known[-2:]
    has_gain = key.source is value.source and (key.bias is not None or value.bias is not None)
    return [key, value] if has_gain else []


def _pack(
    node: ir.Node, place: dict[ir.Node, int], facts: ShapeFacts, recorder: Recorder, editor: Editor, *, max_bytes: int
) -> None:
    parts = _packable(node)
    if not parts:
        return
    reason = _refusal(node, parts, facts, max_bytes)
    if reason:
        recorder.refuse(node, reason)
        return
    if not recorder.may_apply(node):
        return
    first = min((part.nodes[0] for part in parts), key=lambda one: place[one])
    name, source = str(parts[0].nodes[0].outputs[0].name), parts[0].source
    shapes = [facts.shape(part.weight) for part in parts]
    widths = [shape[1].factor for shape in shapes if shape is not None and shape[1] is not None]
    shape = facts.shape(source)
    packed_shape = None if shape is None else [*(plain(dim) for dim in shape[:-1]), sum(widths)]
    weight = packed_weight([part.weight for part in parts], f"{parts[0].weight.name}_qkv", editor)
    packed = editor.insert(
        first, "MatMul", [source, weight], name=f"{name}_qkv", dtype=source.dtype, shape=packed_shape
    )
    biases = [part.bias for part in parts]
    if any(bias is not None for bias in biases):
        assert source.dtype is not None
        bias = editor.constant(packed_bias(biases, widths, source.dtype), f"{name}_qkv_bias")
        packed = editor.insert(
            first, "Add", [packed, bias], name=f"{name}_qkv_biased", dtype=source.dtype, shape=packed_shape
        )
    outputs = _split(first, packed, widths, name, editor)
    for part, new in zip(parts, outputs, strict=True):
        new.type = part.output.type
        editor.take_over(part.output, new)


def _split(before: ir.Node, packed: ir.Value, widths: Sequence[int], name: str, editor: Editor) -> Sequence[ir.Value]:
    import numpy as np

    even = len(set(widths)) == 1
    sizes = None if even else editor.constant(np.array(widths, dtype=np.int64), f"{name}_sizes")
    attributes = {"axis": -1, "num_outputs": len(widths)} if even else {"axis": -1}
    inputs = [packed] if sizes is None else [packed, sizes]
    part = editor.insert(before, "Split", inputs, name=f"{name}_part", attributes=attributes, outputs=len(widths))
    split = part.producer()
    assert split is not None
    return split.outputs


def _refusal(node: ir.Node, parts: list[_Projection], facts: ShapeFacts, max_bytes: int) -> str:
    size = 0
    for index, part in enumerate(parts):
        reason = other_readers(part.nodes[0].outputs[0], part.nodes[-1]) if len(part.nodes) > 1 else ""
        if reason:
            return reason
        if part.output in [other.output for other in parts[:index]]:
            return "two of query, key and value are the same projection"
        weight, tensor = facts.shape(part.weight), constant_tensor(part.weight)
        if weight is None or len(weight) != 2 or tensor is None or tensor.dtype != part.source.dtype:
            return f"the weight '{part.weight.name}' is not a matrix of the type of '{part.source.name}'"
        if part.bias is not None and facts.shape(part.bias) != (weight[1],):
            return f"the bias '{part.bias.name}' is not of the shape [{weight[1]}]"
        if part.nodes[0].graph is not node.graph:
            return "a projection lies outside this graph"
        size += tensor.nbytes
    if size > max_bytes:
        return f"the packed weight would have {size} bytes, over max_bytes={max_bytes}, all of them stored anew"
    return ""
