"""Check artifacts that were built before, or elsewhere, against the original."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from exporter.artifacts import find_artifacts
from exporter.environment import describe_environment
from exporter.evaluation.tolerance import GATES
from exporter.jobs import user_gates
from exporter.lowering import artifact_accuracy
from exporter.original import read_original
from exporter.packaging import summed_up
from exporter.precisions import AUTO
from exporter.recipe import Recipe, TargetRequest, checked
from exporter.report.progress import Progress, make_progress
from exporter.results import ArtifactReport, BuildReport, StageAccuracy, Verdict
from exporter.search.margins import JUDGED_AS, auto_gates
from passes.errors import ArtifactRefused, ExitCode, UsageError
from targets.base import PRECISIONS, Artifact, Precision


def verify(
    folder: str | Path,
    *,
    against: str,
    samples: str | None = None,
    gates: Sequence[str] = (),
    waive: Sequence[str] = (),
    padding_mask: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Return how every artifact under `folder` does on held-out samples, compared with the original `against`.

    Raises ArtifactRefused when there is none or its files were changed, UsageError for a source or samples that don't
    fit. An artifact that has no device here is NOT_RUN, or WAIVED if `waive` names "execution".
    """
    artifacts = find_artifacts(Path(folder))
    targets = tuple(TargetRequest(name) for name in dict.fromkeys(each.manifest.target for each in artifacts))
    recipe = checked(
        Recipe(
            source=against,
            samples=samples,
            targets=targets,
            gates=tuple(gates),
            waive=tuple(waive),
            padding_mask=padding_mask,
            threads=threads,
        )
    )
    judges = user_gates(recipe, {AUTO if _is_auto(artifact) else precision_of(artifact) for artifact in artifacts})
    for gate in judges:
        if GATES[gate.name].exit_code is not ExitCode.ACCURACY:
            raise UsageError(f"The gate '{gate}' is not about accuracy.", hint="'graphwright bench' measures speed.")
    display = progress or make_progress(quiet=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="graphwright-") as work, display:
        original = read_original(recipe, work=Path(work), progress=display, gates=judges)
        reports = []
        notes = list(original.notes)
        for title, artifact in titled(artifacts).items():
            if artifact.manifest.source_sha256 not in ("", original.sha256):
                notes.append(f"{title} was built from another source than {against}: its recorded hash differs.")
            is_auto = _is_auto(artifact)  # judged as the build that chose it did
            accuracy = artifact_accuracy(
                artifact,
                replace(original, gates=auto_gates(judges)) if is_auto else original,
                title=title,
                precision=precision_of(artifact),
                progress=display,
                judged_as=JUDGED_AS if is_auto else None,
            )
            reports.append(_report(artifact, accuracy, recipe))
    return summed_up(
        BuildReport(
            source=original.source.location,
            source_sha256=original.sha256,
            out=str(folder),
            attempts=(),
            pipelines=(),
            stages=(),
            artifacts=tuple(reports),
            samples=original.description,
            environment=describe_environment() | {"framework": original.source.framework},
            seconds={"total": time.perf_counter() - started},
            notes=tuple(notes),
        )
    )


def titled(artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    """Return the artifacts by what reports call them: "openvino int8", with the folder where two would be the same."""
    short = Counter(f"{each.manifest.target} {each.path.name}" for each in artifacts)
    titles: dict[str, Artifact] = {}
    for each in artifacts:
        title = f"{each.manifest.target} {each.path.name}"
        titles[title if short[title] == 1 else f"{title} in {each.path.parent.parent}"] = each
    if len(titles) != len(artifacts):
        raise ArtifactRefused("Two artifacts cannot be told apart.", hint="Name one build's folder at a time.")
    return titles


def precision_of(artifact: Artifact) -> Precision:
    """Return the precision that an artifact was built in. Raises ArtifactRefused for an unknown one."""
    for precision in PRECISIONS:
        if precision == artifact.manifest.precision:
            return precision
    raise ArtifactRefused(f"The manifest of {artifact.path} names no known precision: {artifact.manifest.precision}")


def _is_auto(artifact: Artifact) -> bool:
    """Return whether the artifact's precision was chosen by a search."""
    return AUTO in artifact.manifest.details


def _report(artifact: Artifact, accuracy: StageAccuracy, recipe: Recipe) -> ArtifactReport:
    target = artifact.manifest.target
    waived = accuracy.could_not_run and recipe.is_waived("execution", target)
    return ArtifactReport(
        target=target,
        precision=artifact.manifest.precision,
        label=artifact.path.name,
        path=str(artifact.path),
        verdict=Verdict.WAIVED if waived else accuracy.verdict,
        accuracy=accuracy,
        size_bytes=sum((artifact.path / name).stat().st_size for name in artifact.manifest.files),
        reason=accuracy.reason,
        waived=("execution",) if waived else (),
        details=artifact.manifest.details,
        exit_code=ExitCode.OK if waived else accuracy.exit_code,
    )
