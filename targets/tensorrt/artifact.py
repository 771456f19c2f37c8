"""The artifact on disk: the TensorRT-ready ONNX, one engine a compute capability, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import BuildFailed, ModelBlocked
from passes.serialization import save_model
from targets.base import Artifact, BuildOptions, TensorSpec
from targets.isolation import run_isolated
from targets.manifest import Manifest, hashes_of, write_manifest
from targets.origin import source_line
from targets.specs import model_inputs, model_outputs
from targets.tensorrt.backend import MODULES, Choice, choose
from targets.tensorrt.capabilities import NUMPY_FROM_TENSORRT
from targets.tensorrt.device import find_gpu
from targets.tensorrt.planned import planned_precisions
from targets.tensorrt.settings import Settings, settings_from_text
from targets.tensorrt.shapes import ranges_of

if TYPE_CHECKING:
    import onnx_ir as ir

ONNX_NAME = "model.onnx"


def lowered_onnx(artifact: Artifact) -> Path:
    """Return the path of the graph that the engines were built from; it runs on ONNX Runtime too."""
    return artifact.path / ONNX_NAME


def engine_name(architecture: int) -> str:
    """Return the engine's file name: "engine.sm89.plan"."""
    return f"engine.sm{architecture}.plan"


def write_artifact(model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
    """Return the artifact written into the empty folder `out`: see TensorRtTarget.build."""
    settings = settings_from_text(options.settings)
    choice = choose(settings)
    inputs, outputs = model_inputs(model), model_outputs(model)
    ranges = ranges_of(inputs, options.dims) if choice.backend else {}
    named = _with_node_names(model)
    save_model(named, out / ONNX_NAME)
    try:
        engines = {
            str(architecture): _build(out, architecture, choice, settings, ranges, options.time_limit_s)
            for architecture in choice.architectures
        }
    except ModelBlocked as error:
        raise _with_source_lines(error, named) from error
    for description in engines.values():
        _check_interface(description, inputs, outputs)
    manifest = Manifest(
        target="tensorrt",
        precision=options.precision,
        inputs=inputs,
        outputs=outputs,
        files=hashes_of(out, [path.name for path in out.iterdir()]),
        settings=_settings_text(settings, choice),
        versions=_versions(choice, engines),
        device=", ".join(f"SM{architecture}" for architecture in choice.architectures),
        runs_here=_runs_here(choice),
        details={
            "engines": engines,
            "no_engine_because": choice.reason,
            "input_ranges": ranges,
            "planned_precision": planned_precisions(model),
        },
    )
    write_manifest(out, manifest)
    return Artifact(out, manifest)


def _with_node_names(model: ir.Model) -> ir.Model:
    """Return `model`, or a copy sharing weights with every node named, so that TensorRT's messages name nodes."""
    if all(node.name for node in model.graph):
        return model
    copy = model.clone()
    taken = {node.name for node in copy.graph}
    for index, node in enumerate(copy.graph):
        if not node.name:
            name = f"{node.op_type}_{index}"
            node.name = name if name not in taken else f"{name}_{len(taken)}"
            taken.add(node.name)
    return copy


def _build(
    out: Path, architecture: int, choice: Choice, settings: Settings, ranges: Mapping[str, Any], time_limit_s: float
) -> dict[str, Any]:
    assert choice.backend is not None
    name = engine_name(architecture)
    arguments = {
        "onnx_path": str((out / ONNX_NAME).resolve()),
        "engine_path": str((out / name).resolve()),
        "module": MODULES[choice.backend],
        "architecture": architecture if choice.backend == "rtx" else None,
        "ranges": ranges,
        "workspace_bytes": settings.workspace_bytes,
        "optimization_level": settings.optimization_level,
        "tf32": settings.tf32,
    }
    description = run_isolated("targets.tensorrt.build:build_engine", arguments, time_limit_s=time_limit_s)
    return {"file": name, **description}


def _with_source_lines(error: ModelBlocked, model: ir.Model) -> ModelBlocked:
    """Return the parser's refusals with the user's line of each node; the builder's process knows only names."""
    lines = {node.name: source_line(node) for node in model.graph}
    blockers = [replace(blocker, source_line=lines.get(blocker.node, "")) for blocker in error.blockers]
    return ModelBlocked(error.target, blockers, hint=error.hint)


def _check_interface(
    description: Mapping[str, Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Raise BuildFailed when TensorRT gave an input or output another name or type than the graph has."""
    for key, specs in (("inputs", inputs), ("outputs", outputs)):
        expected = {spec.name: spec.dtype for spec in specs}
        found = {name: NUMPY_FROM_TENSORRT.get(kind, kind) for name, kind in description[key].items()}
        if found != expected:
            raise BuildFailed(
                f"The engine's {key} are {found}, the graph's are {expected}.",
                hint="Cast them in the model to a type that TensorRT has.",
            )


def _settings_text(settings: Settings, choice: Choice) -> dict[str, str]:
    texts = {
        "sm": "+".join(map(str, choice.architectures)),
        "backend": choice.backend or "none",
        "tf32": str(settings.tf32).lower(),
        "workspace_bytes": str(settings.workspace_bytes or "default"),
        "optimization_level": "default" if settings.optimization_level is None else str(settings.optimization_level),
    }
    return {key: text for key, text in texts.items() if text}


def _versions(choice: Choice, engines: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    found = {str(description["version"]) for description in engines.values()}
    return {MODULES[choice.backend]: ", ".join(sorted(found))} if choice.backend else {}


def _runs_here(choice: Choice) -> bool:
    gpu = find_gpu()
    return gpu is not None and gpu.architecture in choice.architectures
