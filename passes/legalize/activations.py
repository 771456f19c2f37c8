"""Activations as the attributes that fused operators carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.matching import constant_number, input_at, number

if TYPE_CHECKING:
    import onnx_ir as ir

_LOWEST, _HIGHEST = -3.4028234663852886e38, 3.4028234663852886e38
# Operator -> its attributes in the order of the parameters, with their defaults.
_PARAMETERS: dict[str, tuple[tuple[str, float], ...]] = {
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": (),
    "LeakyRelu": (("alpha", 0.01),),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}


def activation_of(node: ir.Node) -> tuple[str, tuple[float, ...]] | None:
    """Return the activation's name and parameters; None for another operator, or a Clip with computed bounds."""
    if node.op_type == "Clip":
        bounds = []
        for index, default in ((1, _LOWEST), (2, _HIGHEST)):
            value = input_at(node, index)
            bound = default if value is None else constant_number(value)
            if bound is None:
                return None
            bounds.append(bound)
        return "Clip", tuple(bounds)
    if node.op_type not in _PARAMETERS:
        return None
    return node.op_type, tuple(number(node, name, default) for name, default in _PARAMETERS[node.op_type])
