"""The com.microsoft operators: whether a runtime has one, and how a graph is given one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from passes.matching import is_op

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Context
    from passes.editing import Editor

DOMAIN = "com.microsoft"
_VERSION = 1


def has_contrib(context: Context, *op_types: str) -> bool:
    """Return whether the runtime has a kernel for one of these operators of com.microsoft, whatever the type."""
    return any(context.capabilities.has_kernel(op_type, domain=DOMAIN) for op_type in op_types)


def concerns_contrib(context: Context, *op_types: str) -> bool:
    """Return whether the runtime has, or withholds with a reason to tell, one of these operators of com.microsoft."""
    withheld = context.capabilities.withheld
    return has_contrib(context, *op_types) or any(f"{DOMAIN}::{op_type}" in withheld for op_type in op_types)


def lacks_kernel(context: Context, op_type: str, value: ir.Value | None) -> str:
    """Return why the runtime cannot execute the operator on this data; empty when it can."""
    if value is None or value.dtype is None:
        return "the type of its data is not known"
    if context.capabilities.has_kernel(op_type, domain=DOMAIN, dtype=value.dtype.name):
        return ""
    if f"{DOMAIN}::{op_type}" in context.capabilities.withheld:
        return f"{DOMAIN} {op_type} does not pay: {context.capabilities.withheld[f'{DOMAIN}::{op_type}']}"
    return f"the target has no {DOMAIN} {op_type} for {value.dtype.name}"


def insert_contrib(
    editor: Editor,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    like: ir.Value,
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
) -> ir.Value:
    """Return the first output, of the type and shape of `like`, of a new com.microsoft node put right before `before`.

    Trailing inputs that are None are left out. Further outputs have no name, type or shape: they are left out until the
    caller gives them some.
    """
    given = list(inputs)
    while given and given[-1] is None:
        given.pop()
    editor.model.opset_imports.setdefault(DOMAIN, _VERSION)
    first = editor.insert(
        before, op_type, given, name=str(like.name), attributes=attributes, like=like, domain=DOMAIN, outputs=outputs
    )
    node = first.producer()
    assert node is not None
    for extra in node.outputs[1:]:
        extra.name, extra.type, extra.shape = "", None, None
    return first


def quantized_beside(node: ir.Node) -> str:
    """Return why the node belongs to a quantized region, which a fusion would tear apart; empty when it does not.

    Runtimes recognise DequantizeLinear -> operator -> QuantizeLinear as one int8 operator.
    """
    for value in node.inputs:
        if value is not None and is_op(value.producer(), "DequantizeLinear"):
            return f"'{value.name}' comes from int8"
    for value in node.outputs:
        if any(is_op(reader, "QuantizeLinear") for reader in value.consumers()):
            return f"'{value.name}' goes to int8"
    return ""
