"""All reasons why OpenVINO cannot take a model, at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.base import node_label
from passes.errors import Blocker, BuildFailed
from targets.openvino.capabilities import CAPABILITY_OF_HINT, OPSET_LIMIT, optimizations_of
from targets.openvino.conversion import as_onnx_file, cause_from_error, converted
from targets.openvino.runtime import load_openvino
from targets.origin import source_line
from targets.specs import model_inputs, model_outputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.openvino.settings import Settings

_FEEDABLE = frozenset(
    {"bool", "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64"}
    | {"uint8", "uint16", "uint32", "uint64"}
)
# What a partial conversion leaves in place of what it could not convert.
_PLACEHOLDERS = frozenset({"ONNXFrameworkNode", "NotSupportedONNXNode"})


def find_blockers(model: ir.Model, settings: Settings) -> tuple[Blocker, ...]:
    """Return every reason: the device's arithmetic, the opset, types of inputs and outputs, then operators."""
    general = (*_precision_blockers(settings), *_opset_blockers(model), *_type_blockers(model))
    with as_onnx_file(model) as path:
        try:
            converted(path, load_openvino().Core())
        except BuildFailed as error:
            return (*general, *_operator_blockers(model, path, error))
    return general


def _precision_blockers(settings: Settings) -> Iterator[Blocker]:
    offered = optimizations_of(settings.device)
    if offered and CAPABILITY_OF_HINT[settings.hint] not in offered:
        reason = (
            f"OpenVINO's {settings.device} device here has no {settings.hint} arithmetic; it would take another one"
        )
        yield Blocker(node=settings.hint, operator="precision", reason=reason)


def _opset_blockers(model: ir.Model) -> Iterator[Blocker]:
    version = model.opset_imports.get("", 0)
    if version > OPSET_LIMIT:
        yield Blocker(node=str(version), operator="opset", reason=f"OpenVINO is used up to opset {OPSET_LIMIT}")


def _type_blockers(model: ir.Model) -> Iterator[Blocker]:
    for kind, specs in (("input", model_inputs(model)), ("output", model_outputs(model))):
        for spec in specs:
            if spec.dtype not in _FEEDABLE:
                yield Blocker(node=spec.name, operator=kind, reason=f"{spec.dtype} does not pass through numpy here")


def _operator_blockers(model: ir.Model, path: Path, error: BuildFailed) -> Iterator[Blocker]:
    """Yield each node that a partial conversion leaves unconverted; failing that, the error as one blocker."""
    found = False
    nodes = list(model.graph.all_nodes())
    for function in model.functions.values():
        nodes.extend(function.all_nodes())
    for domain, op_type, name, reason in _unconverted(path):
        matching = [node for node in nodes if node.op_type == op_type and _domain(node.domain) == domain]
        named = [node for node in matching if name in (node.name, *(output.name for output in node.outputs))]
        for node in named or matching:
            found = True
            yield Blocker(node_label(node), node.op_type, reason, source_line(node))
    if not found:
        yield Blocker(node="graph", operator="model", reason=error.message)


def _unconverted(path: Path) -> list[tuple[str, str, str, str]]:
    """Return (domain, operator, node name, reason) of what a partial conversion could not convert, each once."""
    from importlib import import_module

    load_openvino()
    frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("onnx")
    try:
        partial = frontend.convert_partially(frontend.load(str(path)))
    except Exception:  # the front end gave up on the whole graph: its error is the one blocker
        return []
    found: dict[tuple[str, str, str, str], None] = {}
    for node in _all_nodes(partial):
        if node.get_type_name() not in _PLACEHOLDERS:
            continue
        attributes = {key: str(value) for key, value in node.get_attributes().items()}
        domain, op_type = attributes.get("ONNX_META_domain", ""), attributes.get("ONNX_META_type", "")
        reason = attributes.get("failed_conversion_messages") or attributes.get("error_message") or ""
        text = cause_from_error(RuntimeError(reason)) if reason else "OpenVINO has no conversion rule for it"
        found[_domain(domain), op_type, node.get_friendly_name(), text] = None
    return list(found)


def _all_nodes(converted_model: Any) -> Iterator[Any]:
    for node in converted_model.get_ordered_ops():
        yield node
        kind = node.get_type_name()
        if kind == "If":
            yield from _all_nodes(node.get_then_body())
            yield from _all_nodes(node.get_else_body())
        elif kind in ("Loop", "TensorIterator"):
            yield from _all_nodes(node.get_function())


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
