"""Candidates built and run on the validation samples, each once: what was found is kept on disk for the next run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.evaluation.accuracy import compare_runs, judge_outputs
from exporter.lowering import ArtifactMaking
from exporter.results import OutputAccuracy, PipelineReport
from exporter.search.candidates import Candidate, job_of
from exporter.search.records import read_record, write_record
from exporter.search.sensitivity import holds
from exporter.search.strategy import TrialsSpent
from passes.errors import CannotRun, ExitCode, GraphwrightError, MissingDependency, UsageError

if TYPE_CHECKING:
    from exporter.evaluation.references import ReferenceOutputs
    from exporter.evaluation.tolerance import GateSpec
    from exporter.graphs import Graphs
    from exporter.jobs import Job
    from exporter.original import Original
    from targets.base import Artifact

_LARGE_BYTES = 100_000_000
"""Artifacts from this size on are removed at once when they miss the gates."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one candidate gave. `reason`: why it could not be built or run; `refused`: what stayed in float, and why."""

    candidate: Candidate
    outputs: tuple[OutputAccuracy, ...] = ()
    size_bytes: int = 0
    reason: str = ""
    refused: tuple[tuple[str, str], ...] = ()

    def is_met(self, specs: Sequence[GateSpec]) -> bool:
        return not self.reason and holds(self.outputs, specs)

    def figures(self, specs: Sequence[GateSpec]) -> dict[str, float | None]:
        """Return what was measured for each gate."""
        return {gate.name: gate.measured for gate in judge_outputs(self.outputs, specs)} if self.outputs else {}


@dataclass(frozen=True, slots=True)
class Built:
    """A candidate's artifact on disk, and how it was made."""

    job: Job
    artifact: Artifact
    pipeline: PipelineReport | None
    seconds: float


@dataclass(slots=True)
class Trials:
    """Builds and judges candidates, at most `most` new ones; `folder` holds what earlier runs found (None: nothing).

    Interrupting leaves every finished trial behind: a record is written whole or not at all.
    """

    job: Job
    graphs: Graphs
    original: Original
    validation: ReferenceOutputs
    specs: tuple[GateSpec, ...]
    work: Path
    most: int
    folder: Path | None = None
    advance: Callable[[str], None] = lambda title: None
    done: dict[Candidate, Trial] = field(default_factory=dict)
    built: dict[Candidate, Built] = field(default_factory=dict)
    resumed: int = 0
    new: int = 0

    def is_met(self, candidate: Candidate) -> bool:
        """Return whether the gates hold on the validation samples. Raises TrialsSpent beyond the bound.

        Raises CannotRun when the target cannot run anything here.
        """
        if candidate not in self.done:
            known = self._read(candidate)
            if known is not None:
                self.resumed += 1
            elif self.new >= self.most:
                raise TrialsSpent
            else:
                self.new += 1
                known = self._tried(candidate)
                self._write(known)
            self.done[candidate] = known
            self.advance(candidate.title)
        return self.done[candidate].is_met(self.specs)

    def build(self, candidate: Candidate) -> Built:
        """Return the candidate's artifact, built now if it is not there. Raises what its builder raises."""
        if candidate not in self.built:
            job = job_of(candidate, self.job)
            making = ArtifactMaking(job, self.graphs)
            legal = making.legal(making.typed())
            folder = self.work / "trials" / candidate.key
            folder.mkdir(parents=True)
            try:
                artifact = making.artifact(legal, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self.built[candidate] = Built(job, artifact, making.pipeline, making.seconds)
        return self.built[candidate]

    def _tried(self, candidate: Candidate) -> Trial:
        try:
            built = self.build(candidate)
            with built.job.target.open(built.artifact, threads=self.original.threads) as runner:
                accuracy = compare_runs(
                    self.validation,
                    runner,
                    stage=candidate.title,
                    precision=candidate.precision,
                    gates=self.specs,
                    padding=self.original.padding,
                )
        except (UsageError, MissingDependency):
            raise
        except GraphwrightError as error:
            if error.exit_code is ExitCode.NOT_RUN and candidate.precision == "fp32":
                raise CannotRun(f"A search measures on the target itself: {error.one_line}") from error
            return Trial(candidate, reason=error.one_line)
        results = built.pipeline.results if built.pipeline is not None else ()
        refused = tuple(
            (event.node, event.reason)
            for result in results
            for event in result.refused
            if event.rule.startswith("int8 ") and event.node not in candidate.keep
        )
        size = sum((built.artifact.path / name).stat().st_size for name in built.artifact.manifest.files)
        reason = accuracy.reason if not accuracy.outputs else ""
        trial = Trial(candidate, accuracy.outputs, size, reason, refused)
        if size >= _LARGE_BYTES and not candidate.is_plain and not trial.is_met(self.specs):
            shutil.rmtree(self.built.pop(candidate).artifact.path)
        return trial

    def _path(self, candidate: Candidate) -> Path | None:
        return self.folder / f"trial-{candidate.key}.json" if self.folder is not None else None

    def _read(self, candidate: Candidate) -> Trial | None:
        path = self._path(candidate)
        return read_record(path, partial(_trial_from_record, candidate)) if path is not None else None

    def _write(self, trial: Trial) -> None:
        """Keep a trial that ran; what failed may have failed for want of time or memory, and is tried again."""
        path = self._path(trial.candidate)
        if path is not None and not trial.reason:
            write_record(path, asdict(trial))


def _trial_from_record(candidate: Candidate, record: Mapping[str, Any]) -> Trial:
    outputs = tuple(
        OutputAccuracy(**{**output, "problems": tuple(output["problems"]), "notes": tuple(output["notes"])})
        for output in record["outputs"]
    )
    refused = tuple((node, reason) for node, reason in record["refused"])
    return Trial(candidate, outputs, record["size_bytes"], record["reason"], refused)
