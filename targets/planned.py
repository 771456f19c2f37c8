"""What a graph's Q/DQ nodes ask for: the heavy operators that shall run in int8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from passes.base import node_label

if TYPE_CHECKING:
    import onnx_ir as ir

# Operator -> how many of its first inputs must be dequantized for the product to be an int8 one.
_PRODUCTS = {
    **{("", name): 2 for name in ("Conv", "ConvTranspose", "MatMul", "Gemm")},
    **{("", name): 3 for name in ("LSTM", "GRU")},
    **{("com.microsoft", name): 2 for name in ("FusedConv", "FusedGemm", "FusedMatMul")},
}
# Operators that multiply integers by what they are.
_INTEGER_PRODUCTS = frozenset(
    {
        *(("", name) for name in ("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv")),
        *(("com.microsoft", name) for name in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM")),
    }
)
# Operators that multiply too, and whose int8 no graph asks for by Q/DQ.
_FLOAT_PRODUCTS = frozenset(
    {("", "Attention"), ("com.microsoft", "Attention"), ("com.microsoft", "MultiHeadAttention")}
)
_FUSED = frozenset(
    {"Add", "Mul", "Sum", "Relu", "Clip", "Sigmoid", "Tanh", "Gelu", "LeakyRelu", "HardSwish", "BatchNormalization"}
)
_LONGEST_CHAIN = 4
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


def product_aliases(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """Return, for each heavy operator by name, the names that a runtime may give it when it fuses what follows.

    Those are its own, its output's, and those of the elementwise nodes that alone read it, one after another.
    """
    named = {*_PRODUCTS, *_FLOAT_PRODUCTS, *_INTEGER_PRODUCTS}
    nodes = (node for node in model.graph.all_nodes() if _kind(node) in named)
    return {node_label(node): tuple(_aliases(node)) for node in nodes}


def _aliases(node: ir.Node) -> Iterator[str]:
    yield node_label(node)
    current = node
    for _ in range(_LONGEST_CHAIN):
        output = current.outputs[0]
        yield str(output.name)
        readers = list(output.uses())
        if len(readers) != 1 or readers[0].node.op_type not in _FUSED:
            return
        current = readers[0].node
        yield node_label(current)


def planned_int8(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the products (Conv, MatMul, MatMulInteger, ...) whose data and weights are 8-bit integers.

    A product with only its weights dequantized (weight-only compression) computes in float and is not among them.
    """
    return tuple(node_label(node) for node in _products(model) if _is_planned(node))


def nodes_by_label(model: ir.Model, names: Iterable[str]) -> dict[str, ir.Node]:
    """Return those of the graph's nodes that `names` call, by name."""
    wanted = set(names)
    return {label: node for node in model.graph.all_nodes() if (label := node_label(node)) in wanted}


def _products(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph.all_nodes() if _kind(node) in _PRODUCTS or _kind(node) in _INTEGER_PRODUCTS)


def _kind(node: ir.Node) -> tuple[str, str]:
    return node.domain, node.op_type


def _is_planned(node: ir.Node) -> bool:
    if _kind(node) in _INTEGER_PRODUCTS:
        return True
    operands = node.inputs[: _PRODUCTS[_kind(node)]]
    return all(value is not None and _is_dequantized(value) for value in operands)


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    while producer is not None and producer.op_type in _PASSED_THROUGH and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
        return False
    dtype = producer.inputs[0].dtype
    return dtype is None or dtype.bitwidth == 8
