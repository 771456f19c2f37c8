"""Whether nodes are what the definitions of their operators allow, in the operator set that the model imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from passes.base import node_label

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_DEFINED = ("", "ai.onnx.ml")
"""The domains whose operators onnx defines; of others it cannot be said what is allowed."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A node that its operator's definition forbids, and why: "Gelu 'y': no such operator in opset 19"."""

    node: str
    op_type: str
    reason: str
    opset: int

    def __str__(self) -> str:
        return f"{self.op_type} '{self.node}': {self.reason} in opset {self.opset}"


def misfits(model: ir.Model) -> Iterator[Misfit]:
    """Yield each node of a standard operator that does not exist in the model's opset, or is not used as defined.

    Looked at are the number of inputs and outputs, inputs that are left out, the names of attributes and those that are
    required, and the types of inputs: each one allowed, and the same where the definition names them by one letter.
    Functions are left alone.
    """
    for graph in model.graphs():
        for node in graph:
            if node.domain not in _DEFINED or node.op_identifier() in model.functions:
                continue
            opset = model.opset_imports.get(node.domain, 0)
            for reason in _reasons(node, _rules_of(node.op_type, node.domain, opset)):
                yield Misfit(node_label(node), node.op_type, reason, opset)


def _reasons(node: ir.Node, rules: _Rules | None) -> Iterator[str]:
    if rules is None:
        yield "no such operator"
        return
    given, made = len(node.inputs), len(node.outputs)
    if not rules.least_inputs <= given <= rules.most_inputs:
        yield f"takes {_range(rules.least_inputs, rules.most_inputs)} inputs, not {given},"
    if not rules.least_outputs <= made <= rules.most_outputs:
        yield f"has {_range(rules.least_outputs, rules.most_outputs)} outputs, not {made},"
    for name in node.attributes:
        if name not in rules.attributes:
            yield f"has no attribute '{name}'"
    for name in rules.required:
        if name not in node.attributes:
            yield f"needs the attribute '{name}'"
    yield from _type_reasons(node, rules)


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _type_reasons(node: ir.Node, rules: _Rules) -> Iterator[str]:
    import onnx_ir as ir

    bound: dict[str, str] = {}
    for index, value in enumerate(node.inputs):
        if not rules.inputs:
            continue
        place = rules.inputs[min(index, len(rules.inputs) - 1)]
        if value is None:
            if place.is_required:
                yield f"needs its input {index}"
            continue
        if not isinstance(value.type, ir.TensorType):
            continue
        kind = f"tensor({value.type.dtype.name.lower()})"
        if kind not in place.types:
            yield f"takes no {kind} as input {index}"
        elif place.letter and bound.setdefault(place.letter, kind) != kind:
            yield f"takes inputs of one type {place.letter}, not {bound[place.letter]} and {kind},"


@dataclass(frozen=True, slots=True)
class _Place:
    """What a formal input takes; `letter` names the type that it shares with others, empty where it may differ."""

    letter: str
    types: frozenset[str]
    is_required: bool


@dataclass(frozen=True, slots=True)
class _Rules:
    least_inputs: int
    most_inputs: int
    least_outputs: int
    most_outputs: int
    attributes: frozenset[str]
    required: tuple[str, ...]
    inputs: tuple[_Place, ...]


@lru_cache(maxsize=4096)
def _rules_of(op_type: str, domain: str, opset: int) -> _Rules | None:
    """Return what the definition says; None where the opset has no such operator."""
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    return _Rules(
        schema.min_input,
        schema.max_input,
        schema.min_output,
        schema.max_output,
        frozenset(schema.attributes),
        tuple(name for name, attribute in schema.attributes.items() if attribute.required),
        tuple(_place(formal) for formal in schema.inputs),
    )


def _place(formal: onnx.defs.OpSchema.FormalParameter) -> _Place:
    is_plain = "(" in formal.type_str  # one type, written out: nothing to share
    letter = "" if is_plain or not formal.is_homogeneous else formal.type_str
    return _Place(letter, frozenset(formal.types), formal.option.name == "Single")
