"""What a graph's Q/DQ nodes ask for: the heavy operators that shall run in int8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from passes.base import node_label

if TYPE_CHECKING:
    import onnx_ir as ir

# Operator -> how many of its first inputs must be dequantized for the product to be an int8 one.
_PRODUCTS = {"Conv": 2, "ConvTranspose": 2, "MatMul": 2, "Gemm": 2, "LSTM": 3, "GRU": 3}
# Operators that a runtime runs on the integers themselves when they stand between DequantizeLinear and a product.
_PASSED_THROUGH = frozenset(
    {
        "Transpose",
        "Reshape",
        "Flatten",
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "MaxPool",
        "Slice",
        "Split",
        "Gather",
        "Pad",
    }
)


def product_names(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the heavy operators: convolutions, matrix products, recurrent ones."""
    return tuple(node_label(node) for node in _products(model))


def planned_int8(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the products (Conv, MatMul, ...) whose data and weights both come from 8-bit integers.

    A product with only its weights dequantized (weight-only compression) computes in float and is not among them.
    """
    return tuple(node_label(node) for node in _products(model) if _is_planned(node))


def _products(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph.all_nodes() if node.domain == "" and node.op_type in _PRODUCTS)


def _is_planned(node: ir.Node) -> bool:
    operands = node.inputs[: _PRODUCTS[node.op_type]]
    return all(value is not None and _is_dequantized(value) for value in operands)


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    while producer is not None and producer.op_type in _PASSED_THROUGH and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
        return False
    dtype = producer.inputs[0].dtype
    return dtype is None or dtype.bitwidth == 8
