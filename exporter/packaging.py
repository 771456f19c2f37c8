"""The end of a build: verdicts summed up, and written into every manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from exporter.artifacts import BUILD_FORMAT
from exporter.environment import package_versions
from exporter.evaluation.quantized_speed import judge_over_float
from exporter.evaluation.speed import judge_size, judge_speed
from exporter.evaluation.tolerance import FLOATS, GRAPH_STAGES, OVER_FLOAT, UserGate, gates_for
from exporter.graphs import MODEL_FILE
from exporter.jobs import Job
from exporter.lowering import Lowered
from exporter.original import Original
from exporter.precisions import AUTO
from exporter.recipe import Recipe
from exporter.results import ArtifactReport, BuildReport, Gate, StageAccuracy, Verdict
from exporter.search.margins import JUDGED_AS, auto_gates
from exporter.timing import EAGER, Speeds
from passes.errors import ExitCode, worst
from targets.base import DimRange
from targets.manifest import FILE_NAME, FORMAT_VERSION, hashes_of, write_manifest


def judged(
    lowered: Lowered,
    recipe: Recipe,
    original: Original,
    speeds: Speeds,
    *,
    model_bytes: int,
    siblings: Iterable[ArtifactReport] = (),
) -> ArtifactReport:
    """Return the artifact's report with its speed, its speed and size gates, and what the user waived.

    `siblings` are the build's artifacts, among them the float ones that a quantized one is compared with.
    """
    report, job = lowered.report, lowered.job
    comparisons = speeds.artifacts.get(job.title, ())
    gates_given = auto_gates(original.gates) if job.is_auto else original.gates
    specs = gates_for(job.options.precision, stage=job.title, target=job.target.name, user_gates=gates_given)
    slowest = min(
        (each for each in comparisons if each.baseline.label == EAGER), key=lambda each: each.ratio_low, default=None
    )
    gates: tuple[Gate, ...] = judge_speed(specs, slowest, reason=speeds.not_measured)
    gates += judge_over_float(specs, replace(report, speed=comparisons), siblings, reason=speeds.not_measured)
    gates += _unheld(job, original.gates, siblings)
    gates += judge_size(specs, artifact_bytes=report.size_bytes, model_bytes=model_bytes)
    waived = _waived(lowered, recipe)
    codes = [report.exit_code, *map(_exit_code, gates)]
    if waived:  # what needs the device that is missing, never a check that ran and failed or could not be judged
        codes = [code for code in codes if code is not ExitCode.NOT_RUN]
    codes += [stage.exit_code for stage in lowered.stages if not (waived and stage.could_not_run)]
    code = worst(codes)
    if code not in (ExitCode.OK, ExitCode.NOT_RUN):
        verdict = Verdict.FAILED
    elif code is ExitCode.NOT_RUN:
        verdict = Verdict.NOT_RUN
    else:
        verdict = Verdict.WAIVED if waived else report.verdict
    reason = report.reason or "; ".join(
        f"{gate.name}: {gate.reason}" for gate in gates if gate.verdict is Verdict.NOT_RUN
    )
    return replace(
        report, speed=comparisons, gates=gates, waived=waived, verdict=verdict, reason=reason, exit_code=code
    )


def _unheld(job: Job, user_gates: Sequence[UserGate], siblings: Iterable[ArtifactReport]) -> tuple[Gate, ...]:
    """Return, not run, the gate on quantized artifacts that a search left without any: it would pass unseen."""
    precision = job.options.precision
    is_held = any(each.precision not in FLOATS for each in siblings if each.target == job.target.name)
    is_meant = any(gate.precision == AUTO for gate in user_gates if gate.name == OVER_FLOAT)
    if not job.is_auto or precision not in FLOATS or (is_held and not is_meant):
        return ()
    specs = gates_for(JUDGED_AS, stage=job.title, target=job.target.name, user_gates=auto_gates(user_gates))
    return judge_speed(specs, None, name=OVER_FLOAT, reason=f"the search chose {precision}, which is not quantized")


def _exit_code(gate: Gate) -> ExitCode:
    if gate.verdict is Verdict.NOT_RUN:
        return ExitCode.NOT_RUN
    return gate.exit_code if gate.verdict is Verdict.FAILED else ExitCode.OK


def _waived(lowered: Lowered, recipe: Recipe) -> tuple[str, ...]:
    """Return "execution" when the built artifact could not run here and the user allowed that beforehand."""
    accuracy = lowered.report.accuracy
    if lowered.artifact is None or accuracy is None or not accuracy.could_not_run:
        return ()
    names = (lowered.job.target.name, str(lowered.job.request))
    return ("execution",) if recipe.is_waived("execution", *names) else ()


def summed_up(report: BuildReport) -> BuildReport:
    """Return the report with its verdict and exit code: the worst of the shared graphs and of the artifacts.

    A stage on the way to one artifact counts by that artifact's exit code, which knows what was waived.
    """
    shared = [stage.exit_code for stage in report.stages if stage.stage in GRAPH_STAGES]
    code = worst([*shared, *(each.exit_code for each in report.artifacts)])
    if not report.artifacts:
        code = worst([code, ExitCode.NOT_RUN])
    verdict = {ExitCode.OK: Verdict.PASSED, ExitCode.NOT_RUN: Verdict.NOT_RUN}.get(code, Verdict.FAILED)
    return replace(report, verdict=verdict, exit_code=code)


def finish_artifacts(report: BuildReport, lowered: Iterable[Lowered], *, dims: Mapping[str, DimRange]) -> None:
    """Write into each artifact's manifest where it came from and how its checks went. No time is written: see docs."""
    results = {each.path: each for each in report.artifacts if each.path}
    optimize = next((each.pipeline for each in report.pipelines if each.stage == "optimize"), "")
    for each in lowered:
        if each.artifact is None:
            continue
        result = results[each.job.folder]
        own = each.pipeline.pipeline if each.pipeline is not None else ""
        manifest = replace(
            each.artifact.manifest,
            source_sha256=report.source_sha256,
            pipeline=",".join(filter(None, (optimize, own))),
            verdicts=_verdicts(result.accuracy, each.stages),
            waived=result.waived,
            details={
                **each.artifact.manifest.details,
                "dims": {name: [dim.minimum, dim.usual, dim.maximum] for name, dim in sorted(dims.items())},
            },
        )
        write_manifest(each.artifact.path, manifest)


def _verdicts(accuracy: StageAccuracy | None, stages: Iterable[StageAccuracy]) -> dict[str, str]:
    verdicts = {stage.stage: str(stage.verdict) for stage in stages}
    if accuracy is not None:
        verdicts["execution"] = str(accuracy.verdict)
    return verdicts


def write_build_manifest(report: BuildReport, folder: Path) -> None:
    """Write the manifest of the whole build: the source, the portable graph, and every artifact's verdict."""
    names = [path.name for path in sorted(folder.glob(f"{MODEL_FILE}*"))]
    content = {
        "kind": BUILD_FORMAT,
        "format_version": FORMAT_VERSION,
        "source": _portable(report.source),
        "source_sha256": report.source_sha256,
        "files": hashes_of(folder, names),
        "pipeline": next((each.pipeline for each in report.pipelines if each.stage == "optimize"), ""),
        "versions": package_versions(),
        "stages": {stage.stage: str(stage.verdict) for stage in report.stages},
        "artifacts": {
            f"{each.target}/{each.label}": {
                "path": each.path or None,
                "verdict": str(each.verdict),
                "waived": list(each.waived),
                "reason": each.reason,
            }
            for each in report.artifacts
        },
    }
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _portable(location: str) -> str:
    """Return where the source was, relative to the working folder or by its name alone: no path of this machine."""
    path, colon, function = location.rpartition(":")
    if not path.endswith(".py"):
        path, colon, function = location, "", ""
    if Path(path).is_absolute():
        here = Path.cwd()
        path = str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else Path(path).name
    return f"{path}{colon}{function}"
