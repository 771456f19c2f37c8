"""Expressions as values: what a table of forms is written in, and how one is found in a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.matching import constant_number, input_at, is_op, number

if TYPE_CHECKING:
    import onnx_ir as ir

_COMMUTATIVE = ("Add", "Mul", "Max", "Min", "Sum")


@dataclass(frozen=True, slots=True)
class Any:
    """Any value; the same one wherever the name occurs again."""

    name: str = "x"


@dataclass(frozen=True, slots=True)
class Number:
    """A constant of one element: this one, or, by name, one that the form's condition looks at."""

    value: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """A standard operator over operands, in either order where that does not matter.

    attributes: name -> its default and the number that it must have, or None for one that the condition looks at.
    """

    op_type: str
    operands: tuple[Form, ...]
    attributes: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)


Form = Any | Number | Op


@dataclass(frozen=True, slots=True)
class Found:
    """What the names of a form stand for, and the nodes that it spans, the last one first."""

    values: Mapping[str, ir.Value]
    numbers: Mapping[str, float]
    nodes: tuple[ir.Node, ...]


def find(form: Op, node: ir.Node, *, tolerance: float = 1e-5) -> Found | None:
    """Return how `node` computes this form, or None. Numbers may be off by `tolerance`, relatively."""
    return next(_node(form, node, Found({}, {}, ()), tolerance), None)


def is_near(one: float, other: float, tolerance: float = 1e-5) -> bool:
    """Return whether two numbers are equal up to the rounding of an exporter's type."""
    return abs(one - other) <= tolerance * abs(other)


def _is_meant(constant: float, wanted: float, tolerance: float) -> bool:
    """Whole numbers are exact in every type."""
    return constant == wanted if wanted == int(wanted) else is_near(constant, wanted, tolerance)


def _value(form: Form, value: ir.Value | None, found: Found, tolerance: float) -> Iterator[Found]:
    if value is None:
        return
    if isinstance(form, Op):
        producer = value.producer()
        if producer is not None and producer.outputs[0] is value:
            yield from _node(form, producer, found, tolerance)
    elif isinstance(form, Any):
        if form.name not in found.values:
            yield Found({**found.values, form.name: value}, found.numbers, found.nodes)
        elif found.values[form.name] is value:
            yield found
    else:
        constant = constant_number(value)
        if constant is None or (form.value is not None and not _is_meant(constant, form.value, tolerance)):
            return
        numbers = {**found.numbers, form.name: constant} if form.name else found.numbers
        yield Found(found.values, numbers, found.nodes)


def _node(form: Op, node: ir.Node, found: Found, tolerance: float) -> Iterator[Found]:
    if not is_op(node, form.op_type) or len(node.inputs) < len(form.operands):
        return
    if len(node.inputs) > len(form.operands) and any(value is not None for value in node.inputs[len(form.operands) :]):
        return
    numbers = dict(found.numbers)
    for name, (default, wanted) in form.attributes.items():
        attribute = number(node, name, default)
        if wanted is not None and not is_near(attribute, wanted, tolerance):
            return
        numbers[name] = attribute
    start = Found(found.values, numbers, (*found.nodes, node))
    orders = [form.operands]
    if form.op_type in _COMMUTATIVE and len(form.operands) == 2:
        orders.append(form.operands[::-1])
    for operands in orders:
        yield from _operands(operands, node, 0, start, tolerance)


def _operands(operands: tuple[Form, ...], node: ir.Node, index: int, found: Found, tolerance: float) -> Iterator[Found]:
    if index == len(operands):
        yield found
        return
    for further in _value(operands[index], input_at(node, index), found, tolerance):
        yield from _operands(operands, node, index + 1, further, tolerance)
