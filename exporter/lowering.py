"""One artifact: precision, legalisation, the target's builder, and the comparison with the original."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.evaluation.accuracy import compare_runs
from exporter.evaluation.tolerance import gates_for
from exporter.graph_stage import graph_accuracy
from exporter.graphs import Graphs
from exporter.jobs import Job
from exporter.optimization import run_pipeline
from exporter.original import Original, judged_precision
from exporter.precisions import MAKINGS
from exporter.report.progress import Progress
from exporter.results import ArtifactReport, PipelineReport, StageAccuracy, Verdict
from passes.base import Context
from passes.errors import ArtifactRefused, BuildFailed, ExitCode, GraphwrightError, ModelBlocked
from passes.pipeline import Pipeline
from targets.base import Artifact, Precision
from targets.registry import get_target

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Lowered:
    """What came of one job. `artifact` is None when it could not be built; `stages` are the graphs on the way to it."""

    job: Job
    report: ArtifactReport
    artifact: Artifact | None = None
    pipeline: PipelineReport | None = None
    stages: tuple[StageAccuracy, ...] = field(default_factory=tuple)


def lower(job: Job, graphs: Graphs, original: Original, *, staging: Path, work: Path, progress: Progress) -> Lowered:
    """Return the built and verified artifact, or why there is none; only Ctrl-C and defects of ours are raised."""
    job = job.with_dims(original.dims)
    readiness = job.target.probe()
    if not readiness.can_build:
        reason = " ".join(filter(None, (readiness.reason, readiness.fix)))
        return Lowered(job, without_artifact(job, Verdict.NOT_RUN, ExitCode.NOT_RUN, reason))
    folder = staging / job.folder
    making = ArtifactMaking(job, graphs)
    stages: tuple[StageAccuracy, ...] = ()
    try:
        progress.stage(f"lower to {job.title}")
        typed = making.typed()
        if typed is not graphs.optimized:
            stage = f"{MAKINGS[job.options.precision].verb} for {job.title}"
            stages = (typed_stage(job, typed, original, stage=stage, work=work, progress=progress),)
        progress.stage(f"build {job.title}")
        legal = making.legal(typed)
        folder.mkdir(parents=True)
        artifact = making.artifact(legal, folder)
    except GraphwrightError as error:
        _remove(folder)
        return Lowered(job, blocked(job, error), pipeline=making.pipeline, stages=stages)
    finally:
        progress.done()
    accuracy = artifact_accuracy(
        artifact, original, title=job.title, precision=job.options.precision, progress=progress
    )
    if accuracy.verdict is Verdict.NOT_RUN:
        stage = f"lowered graph of {job.title}"
        stages = (*stages, typed_stage(job, legal, original, stage=stage, work=work, progress=progress))
    report = with_artifact(job, artifact, accuracy, making.seconds)
    return Lowered(job, report, artifact, making.pipeline, stages)


@dataclass(slots=True)
class ArtifactMaking:
    """The steps from the optimized graph to the artifact, with what they cost; checking is not counted."""

    job: Job
    graphs: Graphs
    pipeline: PipelineReport | None = None
    seconds: float = 0.0

    def typed(self) -> ir.Model:
        """Return the graph with its precision in its types; the optimized graph itself where nothing is to be done."""
        steps = self.job.precision_pipeline()
        if not steps.steps:
            return self.graphs.optimized
        model = self._run(self.graphs.optimized, steps)
        assert self.pipeline is not None
        if not any(result.applied for result in self.pipeline.results):
            reasons = "; ".join(
                dict.fromkeys(event.reason for result in self.pipeline.results for event in result.refused)
            )
            raise BuildFailed(
                f"Nothing in this model could be put into {self.job.options.precision} for {self.job.target.name}.",
                hint=reasons or "It has no operator that this runtime computes in that precision.",
            )
        return model

    def legal(self, model: ir.Model) -> ir.Model:
        """Return the legalised graph. Raises ModelBlocked with all that the target cannot take."""
        legal = self._run(model, self.job.target.pipeline(self.job.options))
        blockers = self.job.target.blockers(legal, self.job.options)
        if blockers:
            raise ModelBlocked(self.job.target.name, blockers)
        return legal

    def artifact(self, model: ir.Model, folder: Path) -> Artifact:
        started = time.perf_counter()
        artifact = self.job.target.build(model, folder, self.job.options)
        self.seconds += time.perf_counter() - started
        return artifact

    def _run(self, model: ir.Model, steps: Pipeline) -> ir.Model:
        capabilities = self.job.target.capabilities(self.job.options)
        context = Context(capabilities=capabilities, ranges=self.graphs.ranges, moments=self.graphs.moments)
        rewritten, report = run_pipeline(self.job.title, model, pipeline=steps, context=context)
        self.pipeline = report if self.pipeline is None else _joined(self.pipeline, report)
        self.seconds += report.seconds
        return rewritten


def _remove(folder: Path) -> None:
    """Remove the folder, and its target's when no other artifact lies there."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def artifact_accuracy(
    artifact: Artifact,
    original: Original,
    *,
    title: str,
    precision: Precision,
    progress: Progress,
    judged_as: Precision | None = None,
) -> StageAccuracy:
    """Return how an artifact does on the held-out samples; NOT_RUN with the reason when it can't be opened here.

    `judged_as` names the row of default gates where it is not that of `precision`.
    """
    target = get_target(artifact.manifest.target)
    row = judged_precision(original, judged_as or precision)
    gates = gates_for(row, stage=title, target=target.name, user_gates=original.gates)
    references = original.references
    if artifact.manifest.settings.get("shapes") == "fixed":  # as the user asked: batches of ours need not fit
        references = references.of_fixed_sizes(artifact.manifest.inputs)
    progress.stage(f"verify {title}", len(references))
    try:
        with target.open(artifact, threads=original.threads) as runner:
            return compare_runs(
                references,
                runner,
                stage=title,
                precision=precision,
                gates=gates,
                padding=original.padding,
                advance=progress.advance,
            )
    except ArtifactRefused:
        raise
    except GraphwrightError as error:
        verdict = Verdict.NOT_RUN if error.exit_code is ExitCode.NOT_RUN else Verdict.FAILED
        return StageAccuracy(title, precision, verdict, reason=error.one_line)
    finally:
        progress.done()


def typed_stage(
    job: Job,
    model: ir.Model,
    original: Original,
    *,
    stage: str,
    work: Path,
    progress: Progress,
    judged_as: Precision | None = None,
) -> StageAccuracy:
    """Return how the graph of an artifact does on the held-out samples; `judged_as` is as for `artifact_accuracy`."""
    row = judged_precision(original, judged_as or job.options.precision)
    gates = gates_for(row, stage=stage, target=job.target.name, user_gates=original.gates)
    return graph_accuracy(
        model, original, stage=stage, precision=job.options.precision, gates=gates, work=work, progress=progress
    )


def with_artifact(job: Job, artifact: Artifact, accuracy: StageAccuracy, seconds: float) -> ArtifactReport:
    return ArtifactReport(
        target=job.target.name,
        precision=job.options.precision,
        label=job.label,
        path=job.folder,
        verdict=accuracy.verdict,
        accuracy=accuracy,
        size_bytes=sum((artifact.path / name).stat().st_size for name in artifact.manifest.files),
        build_seconds=seconds,
        reason=accuracy.reason,
        details=artifact.manifest.details,
        exit_code=accuracy.exit_code,
    )


def blocked(job: Job, error: GraphwrightError) -> ArtifactReport:
    blockers = tuple(map(str, error.blockers)) if isinstance(error, ModelBlocked) else ()
    reason = f"{job.target.name} cannot take this model: {len(blockers)} blocker(s)" if blockers else error.one_line
    verdict = Verdict.NOT_RUN if error.exit_code is ExitCode.NOT_RUN else Verdict.FAILED
    return without_artifact(job, verdict, error.exit_code, reason, blockers=blockers)


def without_artifact(
    job: Job, verdict: Verdict, code: ExitCode, reason: str, *, blockers: tuple[str, ...] = ()
) -> ArtifactReport:
    return ArtifactReport(
        target=job.target.name,
        precision=job.options.precision,
        label=job.label,
        path="",
        verdict=verdict,
        blockers=blockers,
        reason=reason,
        exit_code=code,
    )


def _joined(first: PipelineReport, second: PipelineReport) -> PipelineReport:
    return PipelineReport(
        stage=first.stage,
        pipeline=",".join(filter(None, (first.pipeline, second.pipeline))),
        statistics=first.statistics + second.statistics,
        results=first.results + second.results,
        nodes_before=first.nodes_before,
        nodes_after=second.nodes_after,
        seconds=first.seconds + second.seconds,
    )
