"""Where an Attention's query, key and value come from: one packed product, or three with biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.legalize.contrib import quantized_beside
from passes.matching import constant_tensor, integer, operand_pairs, other_readers, producer_of
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Packed:
    """x [B, S, K] @ weight [K, Nq + Nk + Nv] + bias, split into query, key and value."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    split: ir.Node


def packed_projection(node: ir.Node, facts: ShapeFacts) -> Packed | None:
    """Return the product that query, key and value of an Attention node are the three parts of."""
    split = producer_of(node.inputs[0], "Split")
    if split is None or split.graph is not node.graph or list(split.outputs) != list(node.inputs[:3]):
        return None
    if integer(split, "axis", 0) not in (-1, 2) or any(other_readers(output, node) for output in split.outputs):
        return None
    product, bias, reader = split.inputs[0], None, split
    add = producer_of(product, "Add")
    if add is not None and add.graph is node.graph and not other_readers(add.outputs[0], split):
        for side, other in operand_pairs(add):
            if producer_of(side, "MatMul") is not None and constant_tensor(other) is not None:
                product, bias, reader = side, other, add
    matmul = producer_of(product, "MatMul")
    if matmul is None or matmul.graph is not node.graph or other_readers(matmul.outputs[0], reader):
        return None
    x, weight = matmul.inputs[0], matmul.inputs[1]
    if x is None or weight is None or constant_tensor(weight) is None or quantized_beside(matmul):
        return None
    width, rank = facts.shape(weight), facts.shape(x)
    if width is None or len(width) != 2 or rank is None or len(rank) != 3:
        return None
    if bias is not None and facts.shape(bias) != width[1:]:
        return None
    return Packed(x, weight, bias, split)


def split_bias(node: ir.Node, facts: ShapeFacts) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    """Return the Split into query, key and value, and what it splits: the product without bias, and the bias."""
    split = producer_of(node.inputs[0], "Split")
    if split is None or list(split.outputs) != list(node.inputs[:3]) or integer(split, "axis", 0) not in (-1, 2):
        return None
    if any(other_readers(output, node) for output in split.outputs):
        return None
    add = producer_of(split.inputs[0], "Add")
    if add is None or add.graph is not split.graph or other_readers(add.outputs[0], split):
        return None
    for product, bias in operand_pairs(add):
        total, width = facts.shape(product), facts.shape(bias)
        if constant_tensor(bias) is not None and total and width == total[-1:]:
            return split, product, bias
    return None


def separate_biases(node: ir.Node, facts: ShapeFacts) -> tuple[list[ir.Value], list[ir.Value]] | None:
    """Return query, key and value before their constant biases of [N], and the biases; None unless all have one."""
    products, biases = [], []
    for value in node.inputs[:3]:
        add = producer_of(value, "Add")
        if value is None or add is None or add.graph is not node.graph or other_readers(value, node):
            return None
        for product, bias in operand_pairs(add):
            total, width = facts.shape(product), facts.shape(bias)
            if constant_tensor(bias) is not None and total is not None and len(total) == 3 and width == total[-1:]:
                products.append(product)
                biases.append(bias)
                break
        else:
            return None
    return products, biases
