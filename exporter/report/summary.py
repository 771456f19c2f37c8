"""What every report says about a result, in one place: headline, artifact rows, stage rows, what was not run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.evaluation.localize import chain_of, localize
from exporter.report.wording import (
    UNKNOWN,
    bytes_text,
    cosine_text,
    decibel_text,
    printable,
    ratio_text,
    share_text,
)
from exporter.results import ArtifactReport, BuildReport, Gate, SpeedComparison, StageAccuracy, Verdict
from passes.errors import ExitCode

EXIT_MEANINGS = {
    ExitCode.OK: "all gates passed",
    ExitCode.INTERNAL: "internal error",
    ExitCode.USAGE: "wrong usage",
    ExitCode.ACCURACY: "an accuracy gate failed",
    ExitCode.SPEED: "a speed or size gate failed",
    ExitCode.BLOCKED: "the model is blocked on a target",
    ExitCode.NOT_RUN: "something asked for was not run",
}


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage's figures, the worst over its outputs."""

    name: str
    precision: str
    verdict: Verdict
    sqnr: str
    worst_sample: str
    cosine: str
    max_abs: str
    top1: str
    samples: int
    shapes: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """An artifact's line in the final table."""

    name: str
    precision: str
    verdict: Verdict
    sqnr: str
    cosine: str
    top1: str
    speed: tuple[str, ...]
    size: str
    reason: str


@dataclass(frozen=True, slots=True)
class Omission:
    """Something that was not run, or was waived, and why."""

    what: str
    verdict: Verdict
    reason: str


def headline(report: BuildReport) -> str:
    """Return what the exit code means: "an accuracy gate failed (exit code 3)"."""
    return f"{EXIT_MEANINGS[report.exit_code]} (exit code {int(report.exit_code)})"


def stage_row(stage: StageAccuracy) -> StageRow:
    """Return a stage's row; integer outputs count for top-1 alone."""
    floats = [output for output in stage.outputs if not output.is_exact and output.elements]
    cosines = [output.cosine for output in floats if output.cosine == output.cosine]
    agreements = [output.top1_agreement for output in stage.outputs if output.top1_agreement is not None]
    return StageRow(
        name=printable(stage.stage),
        precision=stage.precision,
        verdict=stage.verdict,
        sqnr=decibel_text(min((output.sqnr_db for output in floats), default=None)),
        worst_sample=decibel_text(min((output.worst_sample_sqnr_db for output in floats), default=None)),
        cosine=cosine_text(min(cosines, default=None)),
        max_abs=f"{max(output.max_abs for output in floats):.2e}" if floats else UNKNOWN,
        top1=share_text(min(agreements, default=None)),
        samples=stage.samples,
        shapes="; ".join(map(printable, stage.input_shapes)),
        reason=printable(stage.reason),
    )


def artifact_row(artifact: ArtifactReport, report: BuildReport) -> ArtifactRow:
    """Return an artifact's row; the reason is its own, or its failed gates."""
    accuracy = stage_row(artifact.accuracy) if artifact.accuracy is not None else None
    return ArtifactRow(
        name=artifact_name(artifact),
        precision=artifact.precision,
        verdict=artifact.verdict,
        sqnr=accuracy.sqnr if accuracy else UNKNOWN,
        cosine=accuracy.cosine if accuracy else UNKNOWN,
        top1=accuracy.top1 if accuracy else UNKNOWN,
        speed=tuple(
            speed_text(speed, with_shape=len(timed_shapes(report)) > 1)
            for speed in _speeds_worth_showing(artifact, report)
        ),
        size=_size_text(artifact.size_bytes, report.model_size_bytes),
        reason=_artifact_reason(artifact),
    )


def artifact_name(artifact: ArtifactReport) -> str:
    """Return "openvino int8", as its stage and its timings are called."""
    return printable(f"{artifact.target} {artifact.label}".strip())


def speed_text(speed: SpeedComparison, *, with_shape: bool = False) -> str:
    """Return "1.83x [1.79, 1.88] vs original: faster", and "at 8x32" where several input shapes were timed."""
    interval = f"[{speed.ratio_low:.2f}, {speed.ratio_high:.2f}]"
    conclusion = "within noise" if speed.conclusion.startswith("no ") else speed.conclusion
    shape = f" at {compact_shapes(speed.input_shapes)}" if with_shape else ""
    return f"{ratio_text(speed.ratio)} {interval} vs {printable(speed.baseline.label)}{shape}: {conclusion}"


def compact_shapes(shapes: str) -> str:
    """Return "8x32" for "input_ids [8, 32], attention_mask [8, 32]": each different shape once, without names."""
    found = dict.fromkeys(re.findall(r"\[([0-9, ]*)\]", shapes))
    return ", ".join(shape.replace(", ", "x") or "scalar" for shape in found) or printable(shapes)


def timed_shapes(report: BuildReport) -> tuple[str, ...]:
    """Return every input shape that something was timed at."""
    speeds = [*report.baselines, *(speed for artifact in report.artifacts for speed in artifact.speed)]
    return tuple(dict.fromkeys(speed.input_shapes for speed in speeds))


def _speeds_worth_showing(artifact: ArtifactReport, report: BuildReport) -> list[SpeedComparison]:
    """Return those against the original's forms, and of a lower precision against the same target's fp32.

    The mirror images of the latter say nothing new; report.json has all.
    """
    precisions = {f"{other.target} {other.label}".strip(): other.precision for other in report.artifacts}
    return [
        speed
        for speed in artifact.speed
        if speed.baseline.label not in precisions
        or (precisions[speed.baseline.label] == "fp32" and artifact.precision != "fp32")
    ]


def omissions(report: BuildReport) -> tuple[Omission, ...]:
    """Return all that was not run or was waived: stages, artifacts, their accuracy and gates."""
    found = [
        Omission(f"stage {printable(stage.stage)}", stage.verdict, printable(stage.reason))
        for stage in report.stages
        if stage.verdict in _NOT_DONE
    ]
    for artifact in report.artifacts:
        name = artifact_name(artifact)
        if artifact.verdict in _NOT_DONE:
            found.append(Omission(name, artifact.verdict, _artifact_reason(artifact)))
        elif artifact.accuracy is not None and artifact.accuracy.verdict in _NOT_DONE:
            found.append(Omission(f"{name} accuracy", artifact.accuracy.verdict, printable(artifact.accuracy.reason)))
        found.extend(
            Omission(f"{name} gate {gate.name}", gate.verdict, printable(gate.reason))
            for gate in artifact.gates
            if gate.verdict in _NOT_DONE
        )
        if artifact.verdict is not Verdict.WAIVED:
            found.extend(
                Omission(f"{name} {printable(check)}", Verdict.WAIVED, "waived by the user")
                for check in artifact.waived
            )
    return tuple(found)


def failures(report: BuildReport) -> tuple[str, ...]:
    """Return what failed, stages first and in their order, each artifact with the stage that the error entered at."""
    found = [f"stage {printable(s.stage)}: {printable(s.reason)}" for s in report.stages if s.verdict is Verdict.FAILED]
    for artifact in report.artifacts:
        if artifact.verdict is not Verdict.FAILED:
            continue
        blame = localize(chain_of(artifact, report.stages))
        parts = [printable(str(blame))] if blame is not None else []
        reason = _artifact_reason(artifact)
        if reason and (blame is None or reason != printable(blame.reason)):
            parts.append(reason)
        found.append(f"artifact {artifact_name(artifact)}: {'; '.join(parts)}")
    return tuple(found)


def executed_text(artifact: ArtifactReport) -> str:
    """Return how many planned int8 operators ran in int8: "3 of 5 planned int8 operators ran in int8"; "" if none."""
    executed = artifact.details.get("executed", {})
    planned = executed.get("int8_planned", 0)
    if not planned:
        return ""
    floats, untold = len(executed.get("float_fallbacks", ())), len(executed.get("untraced", ()))
    parts = [f"{planned - floats - untold} of {planned} planned int8 operators ran in int8"]
    parts += [f"{floats} fell back to float"] if floats else []
    parts += [f"{untold} cannot be told"] if untold else []
    conversions = executed.get("conversions")
    parts += [f"{conversions} conversions left"] if conversions is not None else []
    return ", ".join(parts)


def fallback_rows(artifact: ArtifactReport) -> tuple[tuple[str, str, str], ...]:
    """Return node, operator and reason of each planned int8 operator that ran in float."""
    rows = artifact.details.get("executed", {}).get("fallbacks", ())
    return tuple((printable(row["node"]), printable(row["operator"]), printable(row["reason"])) for row in rows)


def all_gates(artifact: ArtifactReport) -> tuple[Gate, ...]:
    """Return the artifact's accuracy gates and its own, each once."""
    own = artifact.accuracy.gates if artifact.accuracy is not None else ()
    return (*own, *(gate for gate in artifact.gates if gate not in own))


_NOT_DONE = (Verdict.NOT_RUN, Verdict.WAIVED)


def _artifact_reason(artifact: ArtifactReport) -> str:
    parts: list[str] = [artifact.reason, *_failed_gates(artifact.gates), *artifact.blockers]
    if not any(parts) and artifact.accuracy is not None:
        parts = [artifact.accuracy.reason]
    return "; ".join(printable(part) for part in dict.fromkeys(parts) if part)


def _failed_gates(gates: Iterable[Gate]) -> list[str]:
    return [
        f"{gate.name} {gate.measured:.6g}, the gate {gate.threshold:.6g}"
        for gate in gates
        if gate.verdict is Verdict.FAILED and gate.measured is not None
    ]


def _size_text(size_bytes: int, model_bytes: int) -> str:
    if size_bytes <= 0:
        return UNKNOWN
    share = f" ({size_bytes / model_bytes:.0%})" if model_bytes > 0 else ""
    return bytes_text(size_bytes) + share
