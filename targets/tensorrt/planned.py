"""The precision that each computing node asks for. TensorRT is strongly typed: what the graph says is what is built."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from passes.base import node_label
from targets.tensorrt.capabilities import PASSTHROUGH, PRECISION_FROM_TYPE, PRODUCTS
from targets.tensorrt.typed import typed

if TYPE_CHECKING:
    import onnx_ir as ir

COMPUTING = PRODUCTS | {"Conv", "ConvTranspose"}
"""Operators whose time is multiplications; the others follow their inputs' type."""
_DATA_INPUTS = 2


def planned_precisions(model: ir.Model) -> dict[str, Any]:
    """Return {"by_operator": {"Conv": {"int8": 20}}, "by_node": {name: precision}} for the nodes that compute."""
    import onnx_ir as ir

    by_node: dict[str, str] = {}
    by_operator: dict[str, Counter[str]] = {}
    for node in ir.traversal.RecursiveGraphIterator(typed(model).graph):
        if node.op_type in COMPUTING:
            precision = _precision_of(node)
            by_node[node_label(node)] = precision
            by_operator.setdefault(node.op_type, Counter())[precision] += 1
    counts = {operator: dict(sorted(found.items())) for operator, found in sorted(by_operator.items())}
    return {"by_operator": counts, "by_node": by_node}


def _precision_of(node: ir.Node) -> str:
    """Return the low precision when both factors come out of DequantizeLinear, else that of the data's type."""
    factors = [value for value in node.inputs[:_DATA_INPUTS] if value is not None]
    low = {_dequantized_from(value) for value in factors}
    kind = low.pop() if len(low) == 1 else None
    kind = kind or node.outputs[0].dtype
    return PRECISION_FROM_TYPE.get(kind.name, kind.name.lower()) if kind is not None else "unknown"


def _dequantized_from(value: ir.Value) -> ir.DataType | None:
    """Return the type that the value was dequantized from, looking through operators that only move data."""
    node = value.producer()
    while node is not None and node.op_type in PASSTHROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    return node.inputs[0].dtype
