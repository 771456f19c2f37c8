"""Why ONNX Runtime left a product between Q and DQ in float: its own fusion rules, looked up in the graph it was given.

The rules are those of its QDQ node groups (onnxruntime/core/optimizer/qdq_transformer), which make one int8 operator of
DequantizeLinear -> operator -> QuantizeLinear and leave all three where a group is not complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from passes.base import node_label
from targets.planned import nodes_by_label

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.onnxruntime.settings import Settings

UNKNOWN = "the runtime did not fuse its QuantizeLinear and DequantizeLinear, and no rule of ours tells why"

_FUSED = frozenset({"Conv", "MatMul", "Gemm"})
_FLOAT_RESULT = frozenset({"MatMul", "Gemm"})
_FUSING_LEVELS = frozenset({"extended", "all"})
_DROPPED = frozenset({"Relu", "Clip"})
"""Removed before a QuantizeLinear whose range implies them."""


def fallbacks(names: Iterable[str], model: ir.Model, settings: Settings) -> list[dict[str, str]]:
    """Return node, operator and reason of each of the graph's products `names`, which ran in float."""
    nodes = nodes_by_label(model, names)
    return [
        {"node": name, "operator": nodes[name].op_type, "reason": _reason(nodes[name], settings)}
        for name in sorted(nodes)
    ]


def _reason(node: ir.Node, settings: Settings) -> str:
    if settings.optimization not in _FUSING_LEVELS:
        return f"optimization={settings.optimization} fuses no int8 operator; 'extended' and 'all' do"
    return next((found for rule in _RULES if (found := rule(node))), UNKNOWN)


def _no_kernel(node: ir.Node) -> str:
    if node.op_type in _FUSED and node.domain in ("", "ai.onnx"):
        return ""
    return f"the runtime has no int8 kernel for {node.op_type} between DequantizeLinear and QuantizeLinear"


def _float_readers(node: ir.Node) -> str:
    """An operator that returns 8 bits alone is fused when QuantizeLinear, and nothing else, reads it."""
    value, through = node.outputs[0], ""
    readers = [use.node for use in value.uses()]
    if len(readers) == 1 and readers[0].op_type in _DROPPED:
        value, through = readers[0].outputs[0], f" through {readers[0].op_type}"
        readers = [use.node for use in value.uses()]
    floats = [reader for reader in readers if reader.op_type != "QuantizeLinear"]
    quantized = len(readers) > len(floats)
    if node.op_type in _FLOAT_RESULT and not quantized:
        return ""
    kept = f"so the runtime keeps Q/DQ around a float {node.op_type}"
    if value.is_graph_output():
        return f"its output{through} is a graph output in float, {kept}"
    if floats:
        also = "also " if quantized else ""
        return f"its output is {also}read{through} by the float operator {floats[0].op_type}, {kept}"
    return ""


def _mixed_types(node: ir.Node) -> str:
    kinds = [kind for value in node.inputs[:2] if (kind := _quantized_type(value))]
    results = {kind for reader in _quantizers(node) if (kind := _type_of(reader.outputs[0]))}
    if results and kinds and kinds[0] not in results:
        return f"its data is {kinds[0]} and its result {sorted(results)[0]}: the int8 kernels take one type for both"
    if kinds == ["int8", "uint8"]:
        return "its data is int8 and its weights uint8, for which there is no kernel"
    return ""


def _bias(node: ir.Node) -> str:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or node.op_type not in ("Conv", "Gemm"):
        return ""
    kind = _quantized_type(bias)
    if kind and kind != "int32":
        return f"its bias is {kind}; the int8 kernels add int32"
    if not kind and bias.const_value is None:
        return "its bias is computed, in float; the int8 kernels add constants in int32"
    return ""


def _computed_scales(node: ir.Node) -> str:
    for value in node.inputs[:2]:
        source = _dequantizer(value)
        if source is not None and any(each is not None and each.const_value is None for each in source.inputs[1:3]):
            return f"the scale or zero point of '{value.name if value else ''}' is computed, not constant"
    return ""


def _moved(node: ir.Node) -> str:
    for value in node.inputs[:2]:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type != "DequantizeLinear":
            return f"{_called(producer)} stands between DequantizeLinear and its input"
    return ""


_RULES: tuple[Callable[[ir.Node], str], ...] = (
    _no_kernel,
    _moved,
    _computed_scales,
    _float_readers,
    _mixed_types,
    _bias,
)


def _quantizers(node: ir.Node) -> list[ir.Node]:
    found: list[ir.Node] = []
    for use in node.outputs[0].uses():
        after = [use.node] if use.node.op_type not in _DROPPED else [each.node for each in use.node.outputs[0].uses()]
        found += [each for each in after if each.op_type == "QuantizeLinear"]
    return found


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _quantized_type(value: ir.Value | None) -> str:
    source = _dequantizer(value)
    return _type_of(source.inputs[0]) if source is not None else ""


def _type_of(value: ir.Value | None) -> str:
    return value.dtype.name.lower() if value is not None and value.dtype is not None else ""


def _called(node: ir.Node) -> str:
    return f"{node.op_type} '{node_label(node)}'"
