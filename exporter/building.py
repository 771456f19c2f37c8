"""The main job: trace, optimize, quantize, lower, verify, and say honestly how each step went."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.environment import describe_environment
from exporter.findings import slower_quantized
from exporter.graphs import MODEL_FILE, Graphs, make_graphs
from exporter.jobs import Job, planned_jobs
from exporter.lowering import Lowered, lower
from exporter.measuring import measure_all
from exporter.original import Original, read_original
from exporter.packaging import finish_artifacts, judged, summed_up, write_build_manifest
from exporter.recipe import Recipe, with_overrides
from exporter.report import write_reports
from exporter.report.progress import Progress, make_progress
from exporter.results import BuildReport
from exporter.search.ground import prepare
from exporter.search.searching import search
from exporter.staging import staged_folder
from exporter.timing import timing_feeds


def build(source: str | Recipe, out: str | Path, *, progress: Progress | None = None, **overrides: Any) -> BuildReport:
    """Return the report of a build whose artifacts, optimized graph and report files lie in `out`.

    `source` is what `graphwright build` takes, or a Recipe; `overrides` are Recipe's fields by keyword. A failing
    artifact does not stop the others, and `report.exit_code` is the worst of all. Raises GraphwrightError when nothing
    can be built at all; `out` is then as it was before.
    """
    recipe = with_overrides(source if isinstance(source, Recipe) else Recipe(source=source), overrides)
    display = progress or make_progress(quiet=True)
    jobs = planned_jobs(recipe)
    started = time.perf_counter()
    with staged_folder(Path(out)) as staging, tempfile.TemporaryDirectory(prefix="graphwright-") as work, display:
        original = read_original(recipe, work=Path(work), progress=display)
        graphs = make_graphs(recipe, original, jobs, staging=staging, work=Path(work), progress=display)
        lowered = _lowered(recipe, jobs, graphs, original, staging=staging, work=Path(work), progress=display)
        report = _report(recipe, original, graphs, lowered, out=Path(out), staging=staging, progress=display)
        report = replace(report, seconds={**report.seconds, "total": time.perf_counter() - started})
        finish_artifacts(report, lowered, dims=original.dims)
        write_build_manifest(report, staging)
        write_reports(report, staging)
    return report


def _lowered(
    recipe: Recipe,
    jobs: Sequence[Job],
    graphs: Graphs,
    original: Original,
    *,
    staging: Path,
    work: Path,
    progress: Progress,
) -> list[Lowered]:
    """Return what came of each job; those whose precision is searched for share one split of the calibration data."""
    place: dict[str, Any] = {"staging": staging, "work": work, "progress": progress}
    ground = prepare(recipe, original, graphs, **place) if any(job.is_auto for job in jobs) else None
    return [
        lower(job, graphs, original, **place)
        if ground is None or not job.is_auto
        else search(recipe, job, ground, original, **place)
        for job in jobs
    ]


def _report(
    recipe: Recipe,
    original: Original,
    graphs: Graphs,
    lowered: list[Lowered],
    *,
    out: Path,
    staging: Path,
    progress: Progress,
) -> BuildReport:
    seconds = dict(graphs.seconds)
    started = time.perf_counter()
    speeds = measure_all(recipe, original, lowered, progress=progress)
    seconds["speed"] = time.perf_counter() - started
    seconds |= {each.job.title: each.report.build_seconds for each in lowered}
    made = [each.report for each in lowered]
    model_bytes = sum(path.stat().st_size for path in staging.glob(f"{MODEL_FILE}*"))
    artifacts = tuple(
        judged(each, recipe, original, speeds, model_bytes=model_bytes, siblings=made) for each in lowered
    )
    return summed_up(
        BuildReport(
            source=original.source.location,
            source_sha256=original.sha256,
            out=str(out),
            attempts=graphs.attempts,
            pipelines=(*graphs.pipelines, *(each.pipeline for each in lowered if each.pipeline is not None)),
            stages=(*graphs.stages, *(stage for each in lowered for stage in each.stages)),
            artifacts=artifacts,
            baselines=speeds.baselines,
            samples=original.description,
            environment=describe_environment() | {"framework": original.source.framework},
            seconds=seconds,
            notes=(*original.notes, *graphs.notes, *speeds.notes),
            model_size_bytes=model_bytes,
            findings=slower_quantized(
                artifacts,
                {each.job.title: (each.job.target, each.artifact) for each in lowered if each.artifact is not None},
                timing_feeds(feeds for feeds, _ in original.references),
                threads=original.threads,
                stage=progress.stage,
            ),
        )
    )
