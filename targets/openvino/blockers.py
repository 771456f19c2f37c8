"""All reasons why OpenVINO cannot take a model, at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from passes.base import node_label
from passes.errors import Blocker
from targets.isolation import run_isolated
from targets.openvino.capabilities import CAPABILITY_OF_HINT, OPSET_LIMIT, optimizations_of
from targets.openvino.conversion import as_onnx_file
from targets.openvino.node_rules import misread_reason
from targets.origin import source_line
from targets.specs import model_inputs, model_outputs, why_not_fed

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.openvino.settings import Settings

_FEEDABLE = frozenset(
    {"bool", "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64"}
    | {"uint8", "uint16", "uint32", "uint64"}
)


_PRECISION_REASONS: dict[str, str] = {
    "fp8": "OpenVINO multiplies nothing in float8 on this device: it reads such weights as another float type",
    "int8-dynamic": "OpenVINO has no kernel of DynamicQuantizeLinear with MatMulInteger; its own dynamic quantization "
    "is for compressed weights",
}


def find_blockers(model: ir.Model, settings: Settings, *, precision: str, time_limit_s: float) -> tuple[Blocker, ...]:
    """Return every reason: the device's arithmetic, the opset, types of inputs and outputs, then operators."""
    with as_onnx_file(model) as path:
        answer = run_isolated("targets.openvino.worker:examine", {"source": str(path)}, time_limit_s=time_limit_s)
    return (
        *_precision_blockers(settings, precision),
        *_opset_blockers(model),
        *_type_blockers(model),
        *_operator_blockers(model, answer),
    )


def _precision_blockers(settings: Settings, precision: str) -> Iterator[Blocker]:
    if precision in _PRECISION_REASONS:
        yield Blocker(node=precision, operator="precision", reason=_PRECISION_REASONS[precision])
    offered = optimizations_of(settings.device)
    if offered and CAPABILITY_OF_HINT[settings.hint] not in offered:
        reason = f"OpenVINO's {settings.device} device here has no {settings.hint} arithmetic, and would take another"
        yield Blocker(node=settings.hint, operator="precision", reason=reason)


def _opset_blockers(model: ir.Model) -> Iterator[Blocker]:
    version = model.opset_imports.get("", 0)
    if version > OPSET_LIMIT:
        yield Blocker(node=str(version), operator="opset", reason=f"OpenVINO is used up to opset {OPSET_LIMIT}")


def _type_blockers(model: ir.Model) -> Iterator[Blocker]:
    for kind, specs in (("input", model_inputs(model)), ("output", model_outputs(model))):
        for spec in specs:
            if spec.dtype not in _FEEDABLE:
                yield Blocker(node=spec.name, operator=kind, reason=why_not_fed(spec))


def _operator_blockers(model: ir.Model, answer: Mapping[str, Any]) -> Iterator[Blocker]:
    """Yield each node that is converted wrongly or not at all; an error that no node explains is one blocker."""
    nodes = list(model.graph.all_nodes())
    for function in model.functions.values():
        nodes.extend(function.all_nodes())
    blocked = {node: reason for node in nodes if (reason := misread_reason(node))}
    for domain, op_type, name, reason in answer["unconverted"]:
        matching = [node for node in nodes if (_domain(node.domain), node.op_type) == (_domain(domain), op_type)]
        named = [node for node in matching if name in (node.name, *(output.name for output in node.outputs))]
        blocked |= dict.fromkeys(named or matching, reason)
    for node, reason in blocked.items():
        yield Blocker(node_label(node), node.op_type, reason, source_line(node))
    if answer["error"] and not answer["unconverted"]:
        yield Blocker(node="graph", operator="model", reason=answer["error"])


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
