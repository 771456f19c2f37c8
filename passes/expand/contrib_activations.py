"""Activations of com.microsoft, and products with something before or after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passes.expand.contrib_writer import Form, Replacements, Writer
from passes.matching import input_at, integer, number, text
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

# Activation of a fused product -> its attributes in the order of the parameters.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def gelu(write: Writer, facts: ShapeFacts) -> Form:
    """x to Gelu(x)."""
    return Form(lambda: [(write.node.outputs[0], write("Gelu", write.node.inputs[0], suffix="gelu"))], ("Gelu",))


def bias_gelu(write: Writer, facts: ShapeFacts) -> Form:
    """(x, bias) to Gelu(x + bias)."""
    return _biased(write, "none")


def fast_gelu(write: Writer, facts: ShapeFacts) -> Form:
    """(x, bias or nothing) to Gelu(x + bias) by tanh."""
    return _biased(write, "tanh")


def _biased(write: Writer, approximate: str) -> Form:
    node, bias = write.node, input_at(write.node, 1)

    def written() -> Replacements:
        total = node.inputs[0] if bias is None else write("Add", node.inputs[0], bias, suffix="biased")
        return [(node.outputs[0], write("Gelu", total, suffix="gelu", approximate=approximate))]

    return Form(written, ("Gelu",))


def quick_gelu(write: Writer, facts: ShapeFacts) -> Form:
    """x to x * Sigmoid(alpha * x)."""
    node, alpha = write.node, number(write.node, "alpha", 1.702)

    def written() -> Replacements:
        x = node.inputs[0]
        scaled = x if alpha == 1 else write("Mul", x, write.number(alpha, "alpha"), suffix="scaled")
        gate = write("Sigmoid", scaled, suffix="gate")
        return [(node.outputs[0], write("Mul", x, gate, suffix="gated"))]

    return Form(written)


def fused_matmul(write: Writer, facts: ShapeFacts) -> Form:
    """(a, b) to Transpose, MatMul and Mul."""
    node = write.node
    if integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0):
        return Form(reason="it moves the batch axes")
    ranks = [len(facts.shape(value) or ()) for value in node.inputs[:2]]
    turned = [bool(integer(node, f"trans{side}", 0)) for side in "AB"]
    if any(is_turned and rank < 2 for is_turned, rank in zip(turned, ranks, strict=True)):
        return Form(reason="the rank of an operand that it transposes is not known, or below 2")
    alpha = number(node, "alpha", 1.0)

    def written() -> Replacements:
        sides: list[ir.Value | None] = []
        for value, is_turned, rank, side in zip(node.inputs, turned, ranks, "ab", strict=True):
            perm = [*range(rank - 2), rank - 1, rank - 2]
            sides.append(write("Transpose", value, suffix=f"{side}_turned", perm=perm) if is_turned else value)
        result = write("MatMul", *sides, suffix="product")
        result = result if alpha == 1 else write("Mul", result, write.number(alpha, "alpha"), suffix="scaled")
        return [(node.outputs[0], result)]

    return Form(written)


def fused_conv(write: Writer, facts: ShapeFacts) -> Form:
    """(x, w, bias, residual) to Conv, Add and an activation."""
    node, residual = write.node, input_at(write.node, 3)
    given = node.attributes.get("activation_params")
    parameters = [] if given is None else [float(value) for value in given.as_floats()]
    kind = text(node, "activation", "")
    reason = _unknown(kind, parameters)
    attributes = {name: attribute.value for name, attribute in node.attributes.items() if name in _CONV}

    def written() -> Replacements:
        inputs = [value for value in node.inputs[:3] if value is not None]
        result = write("Conv", *inputs, suffix="conv", **attributes)
        result = result if residual is None else write("Add", result, residual, suffix="added")
        return [(node.outputs[0], _activated(write, kind, parameters, result))]

    return Form(written, reason=reason)


def fused_gemm(write: Writer, facts: ShapeFacts) -> Form:
    """(a, b, c) to Gemm and an activation."""
    node = write.node
    kind = text(node, "activation", "")
    names = [f"activation_{name}" for name in ("alpha", "beta")][: len(_PARAMETERS.get(kind, ()))]
    parameters = [number(node, name, 0.0) for name in names if name in node.attributes]
    reason = "it clips" if kind == "Clip" else _unknown(kind, parameters)
    attributes = {
        name: attribute.value for name, attribute in node.attributes.items() if not name.startswith("activation")
    }

    def written() -> Replacements:
        result = write("Gemm", *node.inputs, suffix="gemm", **attributes)
        return [(node.outputs[0], _activated(write, kind, parameters, result))]

    return Form(written, reason=reason)


def _unknown(kind: str, parameters: Sequence[float]) -> str:
    if kind and kind not in _PARAMETERS:
        return f"its activation is {kind}"
    if kind and len(parameters) != len(_PARAMETERS[kind]):
        return f"its activation {kind} has {len(parameters)} parameters, not {len(_PARAMETERS[kind])}"
    return ""


def _activated(write: Writer, kind: str, parameters: Sequence[float], value: ir.Value) -> ir.Value:
    if kind == "Clip":
        low, high = (write.number(bound, name) for bound, name in zip(parameters, ("low", "high"), strict=True))
        return write("Clip", value, low, high, suffix="clipped")
    if not kind:
        return value
    attributes: dict[str, Any] = dict(zip(_PARAMETERS[kind], parameters, strict=True))
    return write(kind, value, suffix="active", **attributes)
