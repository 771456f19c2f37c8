"""Everything that keeps a model from being lowered, found by one dry trace without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passes.base import node_label
from passes.errors import Blocker
from targets.base import BuildOptions
from targets.origin import source_line
from targets.xla.backend import load_jax, start_pool
from targets.xla.bounds import signature_of
from targets.xla.lowering import registry
from targets.xla.lowering.program import unsupported_reason
from targets.xla.settings import settings_from
from targets.xla.symbols import fed_inputs

if TYPE_CHECKING:
    import onnx_ir as ir


def blockers_of(model: ir.Model, options: BuildOptions) -> tuple[Blocker, ...]:
    """Return every reason why the model can't be lowered: types, operators, then what a dry trace meets.

    The trace goes on past a node that fails; what depends on its outputs is left out, since the cause is listed.
    """
    found = [*_precision_blockers(options), *_input_blockers(model), *_operator_blockers(model)]
    if any(blocker.operator == "Input" for blocker in found):
        return tuple(found)
    load_jax()
    start_pool(options.threads)
    traced = signature_of(model, settings_from(options), options).blockers
    listed = {blocker.node for blocker in found}
    return (*found, *(blocker for blocker in traced if blocker.node not in listed))


_PRECISION_REASONS = {
    "fp8": "the lowering to XLA turns float8 into float32 before it multiplies: fp8 would be no faster than fp32",
    "int8-dynamic": "XLA has no fused kernel that quantizes an input by its own extremes: int8 is faster there",
}


def _precision_blockers(options: BuildOptions) -> list[Blocker]:
    reason = _PRECISION_REASONS.get(options.precision)
    return [] if reason is None else [Blocker(options.precision, "precision", reason)]


def _input_blockers(model: ir.Model) -> list[Blocker]:
    import onnx_ir as ir

    found = []
    for value in fed_inputs(model):
        kind, shape = value.dtype, value.shape
        if value.type is None:
            found.append(Blocker(str(value.name), "Input", "the model does not state its type"))
        elif not isinstance(value.type, ir.TensorType):
            found.append(Blocker(str(value.name), "Input", "sequences, optionals and sparse tensors have no XLA type"))
        elif kind is None or kind in (ir.DataType.UNDEFINED, ir.DataType.STRING):
            found.append(Blocker(str(value.name), "Input", f"its type {kind.name if kind else 'none'} has no XLA type"))
        elif shape is None:
            found.append(Blocker(str(value.name), "Input", "its rank is not declared"))
    return found


def _operator_blockers(model: ir.Model) -> list[Blocker]:
    """Return the nodes, of subgraphs and used functions too, whose operator has no lowering."""
    found = []
    scopes: list[tuple[Any, Any]] = [(model.graph, model.opset_imports)]
    scopes += [(function, function.opset_imports) for function in model.functions.values()]
    for graph, opsets in scopes:
        for node in graph.all_nodes():
            version = node.version or opsets.get(node.domain, opsets.get("", 1))
            if node.op_identifier() in model.functions:
                continue
            if registry.find_lowering(node.op_type, node.domain, version) is None:
                reason = unsupported_reason(node.domain, node.op_type, version)
                found.append(Blocker(node_label(node), node.op_type, reason, source_line(node)))
    return found
