"""Products of one tensor with constant matrices, with or without a bias, and several of them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.dimensions import plain
from passes.fusion.packed_weight import packed_bias, packed_weight
from passes.matching import constant_tensor, operand_pairs, other_readers, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.editing import Editor
    from passes.shapes import ShapeFacts


@dataclass(frozen=True, slots=True)
class Projection:
    """`source` @ `weight` + `bias`, and the nodes that compute it."""

    source: ir.Value
    weight: ir.Value  # [K, N]
    bias: ir.Value | None  # [N]
    nodes: tuple[ir.Node, ...]

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


def projection_of(value: ir.Value | None) -> Projection | None:
    """Return the MatMul by a constant, and the Add of a constant after it if there is one, that make `value`."""
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
    return Projection(matmul.inputs[0], matmul.inputs[1], bias, (matmul,) if add is None else (matmul, add))


def packing_refusal(
    parts: Sequence[Projection], graph: ir.Graph | ir.Function | None, facts: ShapeFacts, *, max_bytes: int, same: str
) -> str:
    """Return why these projections of one tensor cannot become one; empty when they can. `same` names equal ones."""
    size = 0
    for index, part in enumerate(parts):
        reason = other_readers(part.nodes[0].outputs[0], part.nodes[-1]) if len(part.nodes) > 1 else ""
        if reason:
            return reason
        if part.output in [other.output for other in parts[:index]]:
            return same
        weight, tensor = facts.shape(part.weight), constant_tensor(part.weight)
        if weight is None or len(weight) != 2 or tensor is None or tensor.dtype != part.source.dtype:
            return f"the weight '{part.weight.name}' is not a matrix of the type of '{part.source.name}'"
        if part.bias is not None and facts.shape(part.bias) != (weight[1],):
            return f"the bias '{part.bias.name}' is not of the shape [{weight[1]}]"
        if part.nodes[0].graph is not graph:
            return "a projection lies outside this graph"
        size += tensor.nbytes
    if size > max_bytes:
        return f"the packed weight would have {size} bytes, over max_bytes={max_bytes}, all of them stored anew"
    return ""


def pack(parts: Sequence[Projection], first: ir.Node, suffix: str, facts: ShapeFacts, editor: Editor) -> None:
    """Compute the projections by one MatMul, an Add if one has a bias, and a Split, all before `first`."""
    name, source = str(parts[0].nodes[0].outputs[0].name), parts[0].source
    shapes = [facts.shape(part.weight) for part in parts]
    widths = [shape[1].factor for shape in shapes if shape is not None and shape[1] is not None]
    shape = facts.shape(source)
    packed_shape = None if shape is None else [*(plain(dim) for dim in shape[:-1]), sum(widths)]
    weight = packed_weight([part.weight for part in parts], f"{parts[0].weight.name}_{suffix}", editor)
    packed = editor.insert(
        first, "MatMul", [source, weight], name=f"{name}_{suffix}", dtype=source.dtype, shape=packed_shape
    )
    biases = [part.bias for part in parts]
    if any(bias is not None for bias in biases):
        assert source.dtype is not None
        bias = editor.constant(packed_bias(biases, widths, source.dtype), f"{name}_{suffix}_bias")
        packed = editor.insert(
            first, "Add", [packed, bias], name=f"{name}_{suffix}_biased", dtype=source.dtype, shape=packed_shape
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
