"""Query, key and value projections as one matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.matching import constant_tensor, is_op, operand_pairs, other_readers, producer_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


@dataclass(frozen=True)
class PackQkv(Pass):
    """Compute an Attention's query, key and value by one MatMul and a Split, where all three project the same tensor.

    x [B, S, K] @ [K, Nq], [K, Nk], [K, Nv], each with a bias or none of them, becomes x @ [K, Nq + Nk + Nv]. Refuses
    when a projection has another reader, or its weight or bias is not a constant of the fitting shape.
    """

    name: ClassVar[str] = "pack-qkv"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is graph and is_op(node, "Attention") and "q_num_heads" in node.attributes:
                    _pack(node, facts, recorder, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Projection:
    source: ir.Value
    weight: ir.Value  # [K, N]
    bias: ir.Value | None  # [N]
    nodes: tuple[ir.Node, ...]


def _projection(value: ir.Value | None) -> _Projection | None:
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


def _pack(node: ir.Node, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    found = [_projection(value) for value in node.inputs[:3]]
    three = [projection for projection in found if projection is not None]
    if len(three) < 3 or any(projection.source is not three[0].source for projection in three):
        return
    reason = _refusal(node, three, facts)
    if reason:
        recorder.refuse(node, reason)
        return
    if not recorder.may_apply(node):
        return
    name = str(three[0].nodes[0].outputs[0].name)
    arrays = [_array(projection.weight) for projection in three]
    widths = [array.shape[1] for array in arrays]
    source = three[0].source
    shape = facts.shape(source)
    packed_shape = None if shape is None else [*(_plain(dim) for dim in shape[:-1]), sum(widths)]
    weight = editor.constant(np.concatenate(arrays, axis=1), f"{three[0].weight.name}_qkv")
    packed = editor.insert(node, "MatMul", [source, weight], name=f"{name}_qkv", dtype=source.dtype, shape=packed_shape)
    if three[0].bias is not None:
        biases = [_array(projection.bias).reshape(-1) for projection in three]
        bias = editor.constant(np.concatenate(biases), f"{three[0].bias.name}_qkv")
        packed = editor.insert(
            node, "Add", [packed, bias], name=f"{name}_qkv_biased", dtype=source.dtype, shape=packed_shape
        )
    even = len(set(widths)) == 1
    sizes = None if even else editor.constant(np.array(widths, dtype=np.int64), f"{name}_sizes")
    attributes = {"axis": -1, "num_outputs": 3} if even else {"axis": -1}
    inputs = [packed] if sizes is None else [packed, sizes]
    part = editor.insert(node, "Split", inputs, name=f"{name}_part", attributes=attributes, outputs=3)
    split = part.producer()
    assert split is not None
    for old, new in zip([projection.nodes[-1].outputs[0] for projection in three], split.outputs, strict=True):
        new.type = old.type
        editor.take_over(old, new)


def _refusal(node: ir.Node, three: list[_Projection], facts: ShapeFacts) -> str:
    if len({projection.bias is None for projection in three}) > 1:
        return "some of the projections have a bias and some have none"
    for index, projection in enumerate(three):
        for inner, reader in zip(projection.nodes, (*projection.nodes[1:], node), strict=True):
            reason = other_readers(inner.outputs[0], reader)
            if reason:
                return reason
        output = projection.nodes[-1].outputs[0]
        if output in [other.nodes[-1].outputs[0] for other in three[:index]]:
            return "two of query, key and value are the same projection"
        weight = facts.shape(projection.weight)
        if weight is None or len(weight) != 2:
            return f"the weight '{projection.weight.name}' is not a matrix"
        if projection.bias is not None and facts.shape(projection.bias) != (weight[1],):
            return f"the bias '{projection.bias.name}' is not of the shape [{weight[1]}]"
        if projection.nodes[0].graph is not node.graph:
            return "a projection lies outside this graph"
    return ""


def _array(value: ir.Value | None) -> np.ndarray:
    tensor = constant_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def _plain(dim: object) -> int | str | None:
    from passes.dimensions import Dim, plain

    return plain(dim if isinstance(dim, Dim) else None)
