"""What runs in a process of its own, since OpenVINO's native code can crash: conversion and compilation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from passes.errors import BuildFailed, GraphwrightError
from targets.openvino.compiled import compile_ir
from targets.openvino.conversion import cause_from_error, converted, name_ports, save_ir, verify_ports
from targets.openvino.executed import executed_from_compiled
from targets.openvino.runtime import device_label, load_openvino, require_device, the_core
from targets.openvino.settings import Settings

# What a partial conversion leaves in place of what it could not convert.
_PLACEHOLDERS = frozenset({"ONNXFrameworkNode", "NotSupportedONNXNode"})


def build_ir(
    source: str,
    target: str,
    settings: Mapping[str, str],
    threads: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    taken: Sequence[str],
    planned: Sequence[str],
    named: Mapping[str, Sequence[str]],
    compress_to_fp16: bool,
) -> dict[str, Any]:
    """Return version, device and what runs, having written the IR `target` of the ONNX file `source` and compiled it.

    Raises CannotRun when the device is not here or computes otherwise, BuildFailed with the runtime's cause.
    """
    chosen = Settings(**settings)
    core = require_device(chosen.device)
    graph = converted(Path(source), core)
    name_ports(graph, inputs, outputs)
    save_ir(graph, Path(target), compress_to_fp16=compress_to_fp16, taken=frozenset(taken))
    try:
        compiled = compile_ir(Path(target), chosen, threads=threads)
    except GraphwrightError:
        raise
    except Exception as error:  # plug-ins raise RuntimeError and what their kernels raise
        raise BuildFailed(f"OpenVINO does not compile the model: {cause_from_error(error)}") from error
    verify_ports(compiled.inputs, inputs)
    verify_ports(compiled.outputs, outputs)
    return {
        "version": str(load_openvino().get_version()),
        "device": device_label(core, chosen.device),
        "executed": executed_from_compiled(compiled, planned, named=named),
    }


def examine(source: str) -> dict[str, Any]:
    """Return "error", why the ONNX file is not converted or "", and "unconverted", what a partial conversion leaves.

    Each entry of "unconverted" is [domain, operator, node name, reason].
    """
    try:
        converted(Path(source), the_core())
    except BuildFailed as error:
        return {"error": error.message, "unconverted": _unconverted(source)}
    return {"error": "", "unconverted": []}


def _unconverted(source: str) -> list[list[str]]:
    manager = import_module("openvino.frontend").FrontEndManager()
    frontend = manager.load_by_framework("onnx")
    try:
        graph = frontend.load(source)  # the placeholders point into it: it must outlive them
        partial = frontend.convert_partially(graph)
    except Exception:  # the front end gave up on the whole graph: its error is all there is
        return []
    found: dict[tuple[str, str, str, str], None] = {}
    for node in _all_nodes(partial):
        if node.get_type_name() not in _PLACEHOLDERS:
            continue
        attributes = {key: str(value) for key, value in node.get_attributes().items()}
        domain, op_type = attributes.get("ONNX_META_domain", ""), attributes.get("ONNX_META_type", "")
        found[domain, op_type, node.get_friendly_name(), _reason(attributes)] = None
    return [list(entry) for entry in found]


def _reason(attributes: Mapping[str, str]) -> str:
    message = next((value for key, value in attributes.items() if "message" in key.lower()), "")
    return cause_from_error(RuntimeError(message)) if message else "OpenVINO has no conversion rule for it"


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a model and of the bodies of If, Loop and TensorIterator."""
    for node in graph.get_ordered_ops():
        yield node
        kind = node.get_type_name()
        if kind == "If":
            yield from _all_nodes(node.get_then_body())
            yield from _all_nodes(node.get_else_body())
        elif kind in ("Loop", "TensorIterator"):
            yield from _all_nodes(node.get_function())
