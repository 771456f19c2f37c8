"""Nodes that OpenVINO converts, without complaint, to something else than the standard says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_PAST_KEY = 4


def misread_reason(node: ir.Node) -> str:
    """Return why the node's results would be wrong in OpenVINO, or the empty string."""
    if node.domain not in ("", "ai.onnx"):
        return ""
    return next((reason for operator, applies, reason in _RULES if node.op_type == operator and applies(node)), "")


def _is_causal_with_cache(node: ir.Node) -> bool:
    return _input(node, _PAST_KEY) is not None and node.attributes.get_int("is_causal", 0) == 1


_RULES: tuple[tuple[str, Callable[[ir.Node], bool], str], ...] = (
    (
        "Attention",
        _is_causal_with_cache,
        "OpenVINO shifts the causal mask wrongly where there are past keys",
    ),
)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
