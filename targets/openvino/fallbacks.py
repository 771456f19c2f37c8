"""Why OpenVINO left a product between Q and DQ in float, looked up in the graph it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from targets.planned import nodes_by_label

if TYPE_CHECKING:
    import onnx_ir as ir


def fallbacks(found: Iterable[Mapping[str, str]], model: ir.Model) -> list[dict[str, str]]:
    """Return node, operator, reason of each product that ran in float. `found`: its node and the kernel that ran."""
    kernels = {each["node"]: each["kernel"] for each in found}
    nodes = nodes_by_label(model, kernels)
    return [
        {"node": name, "operator": nodes[name].op_type, "reason": f"{_reason(nodes[name])} (it ran as {kernels[name]})"}
        for name in sorted(nodes)
    ]


def _reason(node: ir.Node) -> str:
    return next((found for rule in _RULES if (found := rule(node))), UNKNOWN)


UNKNOWN = "the plug-in chose a float kernel and tells no reason"


def _asymmetric_depthwise(node: ir.Node) -> str:
    groups = node.attributes.get_int("group", 1) if node.op_type.startswith("Conv") else 1
    if groups and groups > 1 and _has_offset(node.inputs[1]):
        return "it is a grouped convolution with asymmetric weights"
    return ""


def _asymmetric_weights(node: ir.Node) -> str:
    return "its weights are asymmetric" if _has_offset(node.inputs[1]) else ""


def _no_constant_weights(node: ir.Node) -> str:
    source = _dequantizer(node.inputs[1])
    if source is None or source.inputs[0] is None or source.inputs[0].const_value is not None:
        return ""
    return "both operands are activations"


_RULES: tuple[Callable[[ir.Node], str], ...] = (
    _asymmetric_depthwise,
    _asymmetric_weights,
    _no_constant_weights,
)


def _has_offset(value: ir.Value | None) -> bool:
    """Return whether the constant weights have a zero point that is not zero."""
    source = _dequantizer(value)
    if source is None or len(source.inputs) < 3 or source.inputs[2] is None:
        return False
    zero, weights = source.inputs[2].const_value, source.inputs[0]
    is_weight = weights is not None and weights.const_value is not None
    return is_weight and zero is not None and bool(np.any(zero.numpy()))


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None
