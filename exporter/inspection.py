"""What a model file or an artifact folder holds, and whether a target takes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.recipe import TargetRequest
from passes.errors import UsageError
from targets.base import BuildOptions, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.manifest import Manifest


@dataclass(frozen=True, slots=True)
class TargetFit:
    """Whether a target takes the model after graphwright's passes; `blockers` lists every reason against it."""

    target: str
    nodes_after: int
    blockers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The content of an ONNX model.

    weight_bytes counts initializers of the graph and its subgraphs once each. unranked: the inputs and outputs whose
    rank the file does not state; their shape is empty, as that of a single number is.
    """

    path: str
    opsets: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: int
    operators: dict[str, int]
    weights: int
    weight_bytes: int
    weight_types: dict[str, int]
    unranked: tuple[str, ...] = ()
    fits: tuple[TargetFit, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactSummary:
    """One artifact: its folder and its manifest, whose files were found unchanged."""

    path: str
    manifest: Manifest


def inspect(path: Path, *, targets: tuple[TargetRequest, ...] = ()) -> ModelSummary | tuple[ArtifactSummary, ...]:
    """Return the summary of an .onnx file, or of every artifact under a folder.

    Raises BadModel, ArtifactRefused or UsageError for what can't be read.
    """
    if path.is_dir():
        from exporter.artifacts import find_artifacts

        if targets:
            raise UsageError("--target applies to an .onnx file, not to artifacts, which are built already.")
        return tuple(ArtifactSummary(str(found.path), found.manifest) for found in find_artifacts(path))
    from passes.serialization import load_model

    model = load_model(path)
    return _model_summary(path, model, tuple(_fit(model, request) for request in targets))


def _model_summary(path: Path, model: ir.Model, fits: tuple[TargetFit, ...]) -> ModelSummary:
    from targets.specs import specs_from_values

    operators = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.all_nodes()
    )
    tensors = [
        value.const_value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.dtype.name.lower()] += tensor.nbytes
    return ModelSummary(
        path=str(path),
        opsets=dict(model.opset_imports),
        inputs=specs_from_values(model.graph.inputs),
        outputs=specs_from_values(model.graph.outputs),
        nodes=sum(operators.values()),
        operators=dict(operators.most_common()),
        weights=len(tensors),
        weight_bytes=sum(types.values()),
        weight_types=dict(types),
        unranked=tuple(str(value.name) for value in (*model.graph.inputs, *model.graph.outputs) if value.shape is None),
        fits=fits,
    )


def _fit(model: ir.Model, request: TargetRequest) -> TargetFit:
    from exporter.optimization import run_pipeline
    from passes.base import Context
    from passes.catalogue import default_pipeline
    from targets.registry import get_target

    target, options = get_target(request.name), BuildOptions(settings=request.settings)
    target.check(options)
    lowered, report = run_pipeline(
        str(request),
        model,
        pipeline=default_pipeline() + target.pipeline(options),
        context=Context(capabilities=target.capabilities(options)),
    )
    blockers = tuple(str(blocker) for blocker in target.blockers(lowered, options))
    return TargetFit(str(request), report.nodes_after, blockers)
