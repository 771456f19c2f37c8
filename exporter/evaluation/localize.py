"""Which stage of a build the error entered at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.evaluation.tolerance import GRAPH_STAGES
from exporter.results import ArtifactReport, StageAccuracy, Verdict

LEAST_DROP_DB = 3.0
"""A smaller fall of the signal-to-error ratio (less than twice the error power) is no new error."""


@dataclass(frozen=True, slots=True)
class Blame:
    """The first stage of a chain that fails.

    output: the output with the least signal-to-error ratio, or with a problem; "" when the stage gave none.
    drop_db: how much that output's sqnr_db fell from the stage before; None where that cannot be said.
    """

    stage: str
    output: str
    sqnr_db: float | None
    previous_stage: str
    drop_db: float | None
    reason: str

    def __str__(self) -> str:
        if self.drop_db is not None and self.drop_db < LEAST_DROP_DB:
            return (
                f"'{self.stage}' misses its gate with the error that '{self.previous_stage}' passed with: {self.reason}"
            )
        where = f"the error enters at '{self.stage}'"
        if self.output:
            where += f", output '{self.output}'"
        if self.drop_db is not None:
            where += f", {self.drop_db:.1f} dB below '{self.previous_stage}'"
        elif self.previous_stage:
            where += f"; '{self.previous_stage}' before it passed"
        return f"{where}: {self.reason}" if self.reason else where


def chain_of(artifact: ArtifactReport, stages: Sequence[StageAccuracy]) -> tuple[StageAccuracy, ...]:
    """Return the stages on the way to `artifact`, in order: the shared graphs, those named for it, and itself."""
    title = artifact.accuracy.stage if artifact.accuracy is not None else f"{artifact.target} {artifact.label}"
    shared = [stage for stage in stages if stage.stage in GRAPH_STAGES]
    own = [stage for stage in stages if stage.stage.endswith(f" {title}")]
    return (*shared, *own, *((artifact.accuracy,) if artifact.accuracy is not None else ()))


def localize(stages: Sequence[StageAccuracy]) -> Blame | None:
    """Return the first failing stage of `stages`, a chain in the order of the build; None when none failed.

    Stages that were not run are passed over: they neither fail nor clear the ones before.
    """
    previous: StageAccuracy | None = None
    for stage in stages:
        if stage.verdict is Verdict.FAILED:
            return _blame(stage, previous)
        if stage.verdict is Verdict.PASSED:
            previous = stage
    return None


def _blame(stage: StageAccuracy, previous: StageAccuracy | None) -> Blame:
    worst = min(stage.outputs, key=lambda output: (not output.problems, output.sqnr_db), default=None)
    before = None
    if worst is not None and previous is not None:
        before = next((output.sqnr_db for output in previous.outputs if output.name == worst.name), None)
    comparable = worst is not None and before is not None and not worst.problems and math.isfinite(worst.sqnr_db)
    return Blame(
        stage=stage.stage,
        output=worst.name if worst is not None else "",
        sqnr_db=worst.sqnr_db if worst is not None and worst.elements else None,
        previous_stage=previous.stage if previous is not None else "",
        drop_db=before - worst.sqnr_db if comparable and worst is not None and before is not None else None,
        reason=stage.reason,
    )
