"""Time artifacts that were built before, in turn with each other and with the original."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.artifacts import find_artifacts
from exporter.environment import describe_environment
from exporter.evaluation.quantized_speed import judge_over_float
from exporter.evaluation.speed import judge_speed
from exporter.evaluation.tolerance import OVER_FLOAT, UserGate, gates_for
from exporter.findings import slower_quantized
from exporter.jobs import user_gates
from exporter.packaging import summed_up
from exporter.recipe import Recipe, TargetRequest, checked
from exporter.report.progress import Progress, make_progress
from exporter.results import ArtifactReport, BuildReport, SpeedComparison, Verdict
from exporter.samples import Samples, generated_feeds, load_samples
from exporter.sources import open_source
from exporter.sources.base import Feeds, Source
from exporter.timing import EAGER, Runners, time_runners, timing_feeds
from exporter.verification import precision_of, titled
from passes.errors import CannotRun, ExitCode, UsageError, worst
from targets.base import Artifact
from targets.registry import get_target


@dataclass(frozen=True, slots=True)
class _Subject:
    artifact: Artifact
    title: str
    not_run: str = ""


def bench(
    folder: str | Path,
    *,
    against: str | None = None,
    samples: str | None = None,
    threads: int | None = None,
    seconds: float = 10.0,
    baselines: bool = True,
    gates: Sequence[str] = (),
    progress: Progress | None = None,
) -> BuildReport:
    """Return the speed of every artifact under `folder`, timed in turn on the same inputs.

    `against` adds the original (and torch.compile with `baselines`). Without `samples` the original's example is
    timed, or generated inputs of the sizes that the manifest names, which the report says. `gates` may hold speed gates
    only; `speedup` needs `against`. Accuracy is not checked here.
    """
    artifacts = find_artifacts(Path(folder))
    targets = tuple(TargetRequest(name) for name in dict.fromkeys(each.manifest.target for each in artifacts))
    recipe = checked(
        Recipe(source=against or "", samples=samples, targets=targets, gates=tuple(gates), threads=threads)
    )
    judges = _speed_gates(recipe, against, {precision_of(artifact) for artifact in artifacts})
    given = load_samples(samples) if samples is not None else None
    source = open_source(against, samples=given) if against else None
    display = progress or make_progress(quiet=True)
    started = time.perf_counter()
    feeds, origin = _feeds(given, source, artifacts)
    with ExitStack() as stack, display:
        runners = Runners(stack)
        if source is not None:
            runners.add(EAGER, source.reference(threads=recipe.thread_count))
            if baselines:
                runners.add_all(source.baselines(threads=recipe.thread_count))
        subjects = [
            _opened(title, artifact, runners, threads=recipe.thread_count)
            for title, artifact in titled(artifacts).items()
        ]
        if all(each.not_run for each in subjects):
            raise CannotRun("No artifact could be opened for timing.", hint="; ".join(runners.notes))
        groups = {each.title: each.artifact.manifest.target for each in subjects if not each.not_run}
        timed = time_runners(runners, groups, feeds, threads=recipe.thread_count, seconds=seconds, progress=display)
        reports = [_measured(each, timed.artifacts.get(each.title, ())) for each in subjects]
    findings = slower_quantized(
        reports,
        {each.title: (get_target(each.artifact.manifest.target), each.artifact) for each in subjects},
        feeds,
        threads=recipe.thread_count,
    )
    return summed_up(
        BuildReport(
            source=against or "",
            source_sha256="",
            out=str(folder),
            attempts=(),
            pipelines=(),
            stages=(),
            artifacts=tuple(
                _judged(each, report, reports, judges, was_timed=each.title in timed.timed)
                for each, report in zip(subjects, reports, strict=True)
            ),
            baselines=timed.baselines,
            samples={"timed": origin},
            environment=describe_environment(),
            seconds={"total": time.perf_counter() - started},
            findings=findings,
            notes=("Accuracy was not checked: 'graphwright verify' does that.", *timed.notes),
        )
    )


def _speed_gates(recipe: Recipe, against: str | None, precisions: Collection[str]) -> tuple[UserGate, ...]:
    gates = user_gates(recipe, precisions)
    for gate in gates:
        if gate.name not in ("speedup", OVER_FLOAT):
            raise UsageError(f"The gate '{gate}' is not about speed.", hint="'graphwright verify' checks accuracy.")
    if against is None and any(gate.name == "speedup" for gate in gates):
        raise UsageError("A speedup gate needs the original to compare with.", hint="Give --against.")
    return gates


def _feeds(
    samples: Samples | None, source: Source | None, artifacts: Sequence[Artifact]
) -> tuple[tuple[Feeds, ...], str]:
    """Return the inputs to time and where they come from, in words."""
    manifest = artifacts[0].manifest
    specs = source.inputs() if source is not None else manifest.inputs
    if samples is not None:
        return timing_feeds(samples.fitting(specs)), samples.location
    example = source.example() if source is not None else None
    if example is not None:
        return timing_feeds([example]), "the original's own example"
    sizes = {name: int(sizes[1]) for name, sizes in manifest.details.get("dims", {}).items()}
    return (generated_feeds(specs, sizes),), "generated inputs of the usual sizes: fit for timing only"


def _opened(title: str, artifact: Artifact, runners: Runners, *, threads: int) -> _Subject:
    manager = get_target(artifact.manifest.target).open(artifact, threads=threads)
    return _Subject(artifact, title, runners.add(title, manager))


def _measured(subject: _Subject, comparisons: tuple[SpeedComparison, ...]) -> ArtifactReport:
    """Return the artifact and its times, not yet judged."""
    manifest = subject.artifact.manifest
    return ArtifactReport(
        target=manifest.target,
        precision=manifest.precision,
        label=subject.artifact.path.name,
        path=str(subject.artifact.path),
        verdict=Verdict.NOT_RUN,
        speed=comparisons,
        size_bytes=sum((subject.artifact.path / name).stat().st_size for name in manifest.files),
        reason=subject.not_run,
        details=manifest.details,
    )


def _judged(
    subject: _Subject,
    report: ArtifactReport,
    siblings: Sequence[ArtifactReport],
    judges: tuple[UserGate, ...],
    *,
    was_timed: bool,
) -> ArtifactReport:
    specs = gates_for(precision_of(subject.artifact), stage=subject.title, target=report.target, user_gates=judges)
    slowest = min(
        (each for each in report.speed if each.baseline.label == EAGER), key=lambda each: each.ratio_low, default=None
    )
    gates = judge_speed(specs, slowest, reason=subject.not_run)
    gates += judge_over_float(specs, report, siblings, reason=subject.not_run)
    codes = [_CODES.get(gate.verdict, gate.exit_code) for gate in gates]
    if not was_timed:
        codes.append(ExitCode.NOT_RUN)
    code = worst(codes)
    verdict = {ExitCode.OK: Verdict.PASSED, ExitCode.NOT_RUN: Verdict.NOT_RUN}.get(code, Verdict.FAILED)
    return replace(report, gates=gates, verdict=verdict, exit_code=code)


_CODES = {Verdict.PASSED: ExitCode.OK, Verdict.NOT_RUN: ExitCode.NOT_RUN}
