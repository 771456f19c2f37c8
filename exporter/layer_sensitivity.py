"""What each operator of a model costs in accuracy when it alone is int8, without building anything."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.evaluation.padding import Padding, padding_of
from exporter.evaluation.references import record_references
from exporter.optimization import run_pipeline
from exporter.recipe import Recipe, TargetRequest, with_overrides
from exporter.report.progress import Progress, make_progress
from exporter.samples import load_samples, missing_calibration_error
from exporter.search.findings import LayerSensitivity
from exporter.search.sensitivity import MOST_SAMPLES, chosen_samples, measure_layers
from exporter.search.splitting import split
from exporter.search.switchboard import open_switchboard
from exporter.sources import open_source
from passes.base import Context, Event
from passes.catalogue import default_pipeline
from passes.errors import UsageError
from passes.parse import pipeline_from_text
from targets.base import BuildOptions
from targets.registry import get_target

if TYPE_CHECKING:
    from exporter.sources.base import Source


@dataclass(frozen=True, slots=True)
class SensitivityReport:
    """Every int8 operator's sensitivity, in graph order, and the operators that stay in float anyway, with reasons.

    samples: how many were run; calibration_samples: how many others the ranges are from.
    """

    source: str
    target: str
    layers: tuple[LayerSensitivity, ...]
    refused: tuple[Event, ...]
    samples: int
    calibration_samples: int
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)


def sensitivity(
    source: str,
    *,
    calibration: str | None,
    target: TargetRequest | str = "onnxruntime",
    samples: int = MOST_SAMPLES,
    quantize: str | None = None,
    ranges: str | None = None,
    pipeline: str | None = None,
    padding_mask: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SensitivityReport:
    """Return what each operator that would be int8 for `target` does to the outputs, alone, on real samples.

    Half of the calibration samples give the ranges, up to `samples` of the others are run. Raises UsageError for
    settings or samples that don't fit, and where nothing can be int8.
    """
    if calibration is None:
        raise missing_calibration_error()
    if samples < 1:
        raise UsageError(f"samples is {samples}; it must be at least 1.")
    recipe = with_overrides(
        Recipe(source=source),
        {
            "calibration": calibration,
            "targets": target,
            "precisions": "int8",
            "quantize": quantize,
            "ranges": ranges,
            "pipeline": pipeline,
            "padding_mask": padding_mask,
            "threads": threads,
        },
    )
    started = time.perf_counter()
    display = progress or make_progress(quiet=True)
    with tempfile.TemporaryDirectory(prefix="graphwright-") as work, display:
        return _measured(recipe, samples, Path(work), display, started)


def _measured(recipe: Recipe, samples: int, work: Path, progress: Progress, started: float) -> SensitivityReport:
    from passes.quantize.calibrate import calibrate

    request = recipe.targets[0]
    runtime = get_target(request.name)
    options = BuildOptions(precision="int8", settings=request.settings, threads=recipe.thread_count)
    runtime.check(options)
    progress.stage("trace and optimize")
    given = load_samples(str(recipe.calibration))
    opened = open_source(recipe.source, samples=given)
    steps = default_pipeline() if recipe.pipeline is None else pipeline_from_text(recipe.pipeline)
    optimized, _ = run_pipeline("optimize", opened.trace(work).model, pipeline=steps)
    progress.stage("calibrate")
    first, second = split(given.fitting(opened.inputs()))
    found = calibrate(
        optimized,
        first,
        method=recipe.ranges,
        threads=recipe.thread_count,
        progress=lambda _: progress.advance(),
    )
    context = Context(capabilities=runtime.capabilities(options), ranges=found)
    quantized, report = run_pipeline(
        "quantize", optimized, pipeline=pipeline_from_text(recipe.quantize), context=context
    )
    result = report.results[0]
    if not result.applied:
        reasons = "; ".join(dict.fromkeys(event.reason for event in result.refused))
        raise UsageError(f"Nothing in this model can be int8 for {request.name}.", hint=reasons)
    feeds = chosen_samples(second, most=samples)
    padding = _padding(recipe, opened, feeds, work)
    with open_switchboard(optimized, quantized, result, threads=recipe.thread_count) as board:
        progress.stage(f"{len(board.names)} operators alone in int8", len(board.names) * len(feeds))
        layers, measured = measure_layers(board, feeds, padding=padding, advance=progress.advance)
    progress.done()
    return SensitivityReport(
        source=recipe.source,
        target=str(request),
        layers=layers,
        refused=tuple(event for event in result.refused if event.rule.startswith("int8 ")),
        samples=measured,
        calibration_samples=found.samples,
        seconds=time.perf_counter() - started,
        settings={"quantize": recipe.quantize, "ranges": recipe.ranges, "threads": recipe.thread_count},
    )


def _padding(recipe: Recipe, opened: Source, feeds: tuple[Any, ...], work: Path) -> Padding | None:
    if recipe.padding_mask is None:
        return None
    with opened.reference(threads=recipe.thread_count) as reference:
        return padding_of(recipe.padding_mask, record_references(feeds, reference, work / "references"))
