"""Gelu as one operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import (
    constant_number,
    constant_tensor,
    first_shared,
    is_op,
    operand_pairs,
    opset_of,
    producer_of,
    raised_rank,
)
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET_OF_GELU = 20


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Raise x / 2 * (1 + erf(x / sqrt 2)), or its tanh approximation, to Gelu.

    | form, with the factors in any order, and constants multiplied or divided by | becomes |
    |---|---|
    | x * 0.5 * (1 + erf(x / sqrt 2)), x * (0.5 + 0.5 * erf(x / sqrt 2)) | Gelu |
    | the same in float16 with the erf or tanh alone in float32 | Gelu, in float16 |
    | x * 0.5 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x ** 3) | Gelu, approximate |
    | x * sigmoid(2 u) | Gelu, approximate |

    x ** 3 may be a Pow or a product. x * sigmoid(1.702 x) is another function. Refuses when an inner value has another
    reader or a constant adds axes.
    """

    name: ClassVar[str] = "fuse-gelu"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "Mul", "Div"):
                    continue
                match = _match(node)
                if match is None:
                    continue
                value, form, inner = match
                if opset_of(model) < OPSET_OF_GELU:
                    recorder.refuse(node, f"Gelu needs opset 20, the model has {opset_of(model)}")
                    continue
                shape = facts.shape(value)
                rank = None if shape is None else len(shape)
                reason = first_shared(inner, node) or raised_rank((*inner, node), value, rank=rank)
                if reason:
                    recorder.refuse(node, reason)
                    continue
                if recorder.may_apply(node, form):
                    output = node.outputs[0]
                    attributes = {"approximate": form}
                    new = editor.insert(
                        node, "Gelu", [value], name=str(output.name), attributes=attributes, like=output
                    )
                    editor.take_over(output, new)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Product:
    """A value as a constant times varying factors, and the nodes that multiply them."""

    constant: float
    factors: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]


def _product_of(value: ir.Value, *, root: ir.Node | None = None, depth: int = 4) -> _Product:
    """Return `value` with multiplications, and divisions by constants, taken apart."""
    node = root if root is not None else producer_of(value, "Mul", "Div")
    if node is None or depth == 0:
        number = constant_number(value)
        return _Product(1.0, (value,), ()) if number is None else _Product(number, (), ())
    first, second = node.inputs
    assert first is not None
    assert second is not None
    if node.op_type == "Div":
        number = constant_number(second)
        if not number:
            return _Product(1.0, (value,), ())
        above = _product_of(first, depth=depth - 1)
        return _Product(above.constant / number, above.factors, (*above.nodes, node))
    left, right = _product_of(first, depth=depth - 1), _product_of(second, depth=depth - 1)
    return _Product(left.constant * right.constant, (*left.factors, *right.factors), (*left.nodes, *right.nodes, node))


def _match(node: ir.Node) -> tuple[ir.Value, str, tuple[ir.Node, ...]] | None:
    """Return x, the form ("none" or "tanh") and the inner nodes, where `node` is the last factor of a Gelu."""
    product = _product_of(node.outputs[0], root=node)
    if len(product.factors) != 2:
        return None
    tolerance = _tolerance(node)
    for value, gate in (product.factors, product.factors[::-1]):
        if constant_tensor(value) is not None:
            continue
        found = _gate(gate, value, product.constant, tolerance)
        if found is not None:
            return value, found[0], (*found[1], *(n for n in product.nodes if n is not node))
    return None


def _gate(gate: ir.Value, value: ir.Value, constant: float, tolerance: float) -> tuple[str, tuple[ir.Node, ...]] | None:
    """Return the form and the nodes where constant * gate is the share of `value` that a Gelu lets through."""
    sigmoid = producer_of(gate, "Sigmoid")
    if sigmoid is not None and sigmoid.inputs[0] is not None and constant == 1:  # (1 + tanh(u)) / 2 = sigmoid(2 u)
        nodes = _is_tanh_argument(sigmoid.inputs[0], value, 2 * math.sqrt(2 / math.pi), tolerance)
        return None if nodes is None else ("tanh", (*nodes, sigmoid))
    add = producer_of(gate, "Add")
    if add is None:
        return None
    for curve, shift in operand_pairs(add):
        number = constant_number(shift)
        scaled = None if not number else _product_of(curve)
        if number is None or scaled is None or len(scaled.factors) != 1:
            continue
        if not (_near(constant * number, 0.5, tolerance) and _near(scaled.constant, number, tolerance)):
            continue
        found = _curve(scaled.factors[0], value, tolerance)
        if found is not None:
            return found[0], (*found[1], *scaled.nodes, add)
    return None


def _curve(curve: ir.Value, value: ir.Value, tolerance: float) -> tuple[str, tuple[ir.Node, ...]] | None:
    """Return the form and the nodes where `curve` is erf(x / sqrt 2) or the tanh that stands for it."""
    narrow, casts = producer_of(curve, "Cast"), []
    if narrow is not None and narrow.inputs[0] is not None:
        curve, casts = narrow.inputs[0], [narrow]
    node = producer_of(curve, "Erf", "Tanh")
    if node is None or node.inputs[0] is None:
        return None
    argument, widen = node.inputs[0], producer_of(node.inputs[0], "Cast")
    if narrow is not None:  # computed in a wider type, and only that
        if widen is None or widen.inputs[0] is None or curve.dtype is None or curve.dtype.name != "FLOAT":
            return None
        if value.dtype is None or value.dtype.name not in ("FLOAT16", "BFLOAT16"):
            return None
        argument, casts = widen.inputs[0], [widen, narrow]
    inner = (
        _is_scaled(argument, value, math.sqrt(0.5), tolerance)
        if node.op_type == "Erf"
        else _is_tanh_argument(argument, value, math.sqrt(2 / math.pi), tolerance)
    )
    return None if inner is None else ("none" if node.op_type == "Erf" else "tanh", (*inner, node, *casts))


def _is_scaled(value: ir.Value, base: ir.Value, factor: float, tolerance: float) -> tuple[ir.Node, ...] | None:
    product = _product_of(value)
    fits = product.factors == (base,) and _near(product.constant, factor, tolerance)
    return product.nodes if fits else None


def _is_tanh_argument(value: ir.Value, base: ir.Value, factor: float, tolerance: float) -> tuple[ir.Node, ...] | None:
    """Return the nodes of factor * (x + 0.044715 * x ** 3), also as (factor * x) * (1 + 0.044715 * x ** 2)."""
    product = _product_of(value)
    if not _near(product.constant, factor, tolerance):
        return None
    power = 3 if len(product.factors) == 1 else 2
    rest = [factor for factor in product.factors if factor is not base]
    if len(rest) != 1 or len(product.factors) != 4 - power:
        return None
    add = producer_of(rest[0], "Add")
    if add is None:
        return None
    for linear, cubic in operand_pairs(add):
        if (linear is base) if power == 3 else constant_number(linear) == 1:
            nodes = _is_power(cubic, base, power, 0.044715, tolerance)
            if nodes is not None:
                return (*product.nodes, add, *nodes)
    return None


def _is_power(
    value: ir.Value, base: ir.Value, power: int, factor: float, tolerance: float
) -> tuple[ir.Node, ...] | None:
    """Return the nodes of factor * base ** power, written with Pow or with products."""
    product = _product_of(value)
    if not _near(product.constant, factor, tolerance):
        return None
    exponent, nodes = 0.0, list(product.nodes)
    for part in product.factors:
        if part is base:
            exponent += 1
            continue
        pow_node = producer_of(part, "Pow")
        by = None if pow_node is None else constant_number(pow_node.inputs[1])
        if pow_node is None or pow_node.inputs[0] is not base or by is None:
            return None
        exponent += by
        nodes.append(pow_node)
    return tuple(nodes) if exponent == power else None


def _tolerance(node: ir.Node) -> float:
    """Exporters round the constants to the type that they compute in."""
    dtype = node.outputs[0].dtype
    return 4e-3 if dtype is not None and dtype.name in ("FLOAT16", "BFLOAT16") else 1e-5


def _near(number: float, wanted: float, tolerance: float) -> bool:
    return abs(number - wanted) <= tolerance * abs(wanted)
