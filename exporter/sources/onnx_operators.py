"""Operators that ONNX Runtime does not know, found before it loads a graph, since it would name only the first."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING

from passes.base import node_label
from passes.errors import Blocker, ModelBlocked
from targets.origin import source_line

if TYPE_CHECKING:
    import onnx_ir as ir

Operator = tuple[str, str]
"""Domain and name; the standard's domain is the empty string."""


def refuse_unknown_operators(model: ir.Model) -> None:
    """Raise ModelBlocked, with every node concerned, if an operator is neither ONNX Runtime's nor the model's own.

    Nodes of subgraphs and of the model's functions count too.
    """
    known = _known_operators()
    own = {(_plain(domain), name) for domain, name, _ in model.functions}
    nodes = [*model.graph.all_nodes(), *(node for body in model.functions.values() for node in body.all_nodes())]
    blockers = [
        Blocker(node_label(node), _title(operator), _reason(operator, known | own), source_line(node))
        for node in nodes
        if (operator := (_plain(node.domain), node.op_type)) not in known and operator not in own
    ]
    if blockers:
        raise ModelBlocked(
            "ONNX Runtime, which runs the original,",
            blockers,
            hint="Export them as standard operators, or put each into the model as a function.",
        )


def _known_operators() -> frozenset[Operator]:
    """Return what ONNX Runtime has a schema for, its own com.microsoft operators included."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    return frozenset((_plain(schema.domain), schema.name) for schema in get_all_operator_schema())


def _reason(operator: Operator, known: Collection[Operator]) -> str:
    domain, name = operator
    elsewhere = sorted(other or "ai.onnx" for other, known_name in known if known_name == name)
    if elsewhere:
        return f"this name is known in the domain {elsewhere[0]} only"
    near = difflib.get_close_matches(name, sorted(each for other, each in known if other == domain), n=1, cutoff=0.8)
    return "no operator of this name and domain is known" + (f" (meant {near[0]}?)" if near else "")


def _title(operator: Operator) -> str:
    domain, name = operator
    return f"{domain}::{name}" if domain else name


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
