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

    The factors may be multiplied in any order. Refuses when an inner value has another reader or a constant adds axes.
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
    if not _near(product.constant, 0.5, tolerance):
        return None
    for value, gate in (product.factors, product.factors[::-1]):
        add = producer_of(gate, "Add")
        if add is None or constant_tensor(value) is not None:
            continue
        for curve, one in operand_pairs(add):
            if constant_number(one) != 1:
                continue
            erf, tanh = producer_of(curve, "Erf"), producer_of(curve, "Tanh")
            inner = None
            if erf is not None and erf.inputs[0] is not None:
                inner = _is_scaled(erf.inputs[0], value, math.sqrt(0.5), tolerance)
            elif tanh is not None and tanh.inputs[0] is not None:
                inner = _is_tanh_argument(tanh.inputs[0], value, tolerance)
            if inner is not None:
                curve_node = erf or tanh
                assert curve_node is not None
                nodes = (*inner, curve_node, add, *(n for n in product.nodes if n is not node))
                return value, "none" if erf is not None else "tanh", nodes
    return None


def _is_scaled(value: ir.Value, base: ir.Value, factor: float, tolerance: float) -> tuple[ir.Node, ...] | None:
    product = _product_of(value)
    fits = product.factors == (base,) and _near(product.constant, factor, tolerance)
    return product.nodes if fits else None


def _is_tanh_argument(value: ir.Value, base: ir.Value, tolerance: float) -> tuple[ir.Node, ...] | None:
    """Return the nodes of sqrt(2 / pi) * (x + 0.044715 * x ** 3), also as (c * x) * (1 + 0.044715 * x ** 2)."""
    product = _product_of(value)
    if not _near(product.constant, math.sqrt(2 / math.pi), tolerance):
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
