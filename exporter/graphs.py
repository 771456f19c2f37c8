"""The graphs that all artifacts share: traced, optimized, and the ranges that low precisions go by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.evaluation.tolerance import gates_for
from exporter.graph_stage import graph_accuracy
from exporter.jobs import Job
from exporter.optimization import run_pipeline
from exporter.original import Original
from exporter.precisions import use_calibration
from exporter.recipe import Recipe
from exporter.report.progress import Progress
from exporter.results import Attempt, PipelineReport, StageAccuracy
from passes.catalogue import default_pipeline
from passes.parse import pipeline_from_text
from passes.serialization import load_model, save_model

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.quantize.ranges import ActivationRange
    from passes.quantize.weight_only.statistics import InputStatistics

MODEL_FILE = "model.onnx"
"""The optimized portable graph, in the output folder."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """`optimized` is loaded from `MODEL_FILE`, its weights memory-mapped; `ranges` may be empty.

    `moments` are computed when a pass first asks for them; without samples there are none.
    """

    optimized: ir.Model
    attempts: tuple[Attempt, ...]
    pipelines: tuple[PipelineReport, ...]
    stages: tuple[StageAccuracy, ...]
    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    moments: Mapping[str, InputStatistics] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def make_graphs(
    recipe: Recipe, original: Original, jobs: Sequence[Job], *, staging: Path, work: Path, progress: Progress
) -> Graphs:
    """Return the traced and optimized graph, each compared with the original, and ranges where samples and a use are.

    Raises TraceFailed when no strategy can trace the source, PassBroken when a pass fails.
    """
    steps = default_pipeline() if recipe.pipeline is None else pipeline_from_text(recipe.pipeline)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    progress.stage("trace")
    traced = original.source.trace(work)
    progress.done()
    seconds["trace"] = time.perf_counter() - started
    stages = [_float_stage("trace", traced.model, original, work=work, progress=progress)]

    progress.stage("optimize")
    optimized, pipeline = run_pipeline("optimize", traced.model, pipeline=steps)
    save_model(optimized, staging / MODEL_FILE)
    optimized = load_model(staging / MODEL_FILE)
    progress.done()
    seconds["optimize"] = pipeline.seconds
    stages.append(_float_stage("optimize", optimized, original, work=work, progress=progress))

    ranges: Mapping[str, ActivationRange] = {}
    notes: tuple[str, ...] = ()
    if original.calibration is not None and use_calibration(job.options.precision for job in jobs):
        from exporter.calibration import calibrated_ranges

        started = time.perf_counter()
        progress.stage("calibrate")
        ranges = calibrated_ranges(
            optimized,
            original.calibration,
            file=staging / MODEL_FILE,
            method=recipe.ranges,
            threads=original.threads,
            cache=None if recipe.calibration_cache is None else Path(recipe.calibration_cache).expanduser(),
            progress=progress,
        )
        progress.done()
        seconds["calibrate"] = time.perf_counter() - started
    moments: Mapping[str, InputStatistics] = {}
    if original.calibration is not None:
        from passes.quantize.moments import second_moments

        moments = second_moments(optimized, original.calibration, threads=original.threads)
    return Graphs(optimized, traced.attempts, (pipeline,), tuple(stages), ranges, moments, seconds, notes)


def _float_stage(stage: str, model: ir.Model, original: Original, *, work: Path, progress: Progress) -> StageAccuracy:
    precision = original.precision
    gates = gates_for(precision, stage=stage, user_gates=original.gates)
    return graph_accuracy(model, original, stage=stage, precision=precision, gates=gates, work=work, progress=progress)
