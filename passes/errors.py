"""The one family of exceptions, each with the exit code that it maps to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the command returns; `worst` decides between several."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    ACCURACY = 3
    SPEED = 4
    BLOCKED = 5
    NOT_RUN = 6


_SEVERITY: tuple[ExitCode, ...] = (
    ExitCode.OK,
    ExitCode.NOT_RUN,
    ExitCode.SPEED,
    ExitCode.BLOCKED,
    ExitCode.ACCURACY,
    ExitCode.USAGE,
    ExitCode.INTERNAL,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the most severe code: a wrong result outranks a blocked model, that a slow one, that one not run."""
    return max(codes, key=_SEVERITY.index, default=ExitCode.OK)


class GraphwrightError(Exception):
    """A failure that the user can act on: `message` states the fact, `hint` the fix."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def one_line(self) -> str:
        """The message and the hint, for a table's cell or a line of a report."""
        return " ".join(str(self).split())

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(GraphwrightError):
    """Wrong flags, recipe, pipeline text, paths or sample inputs."""

    exit_code = ExitCode.USAGE


class BadModel(UsageError):
    """A model file that is missing, truncated, invalid or unsafe to load."""


class MissingDependency(GraphwrightError):
    """An optional package is absent, or present but broken; the hint tells which."""

    exit_code = ExitCode.NOT_RUN


class TraceFailed(GraphwrightError):
    """No tracing strategy could turn the source into a graph."""

    exit_code = ExitCode.BLOCKED


class BuildFailed(GraphwrightError):
    """A target's own builder refused, crashed or ran past its time limit."""

    exit_code = ExitCode.BLOCKED


class ArtifactRefused(GraphwrightError):
    """An artifact that does not fit: changed files, another runtime version, another device."""

    exit_code = ExitCode.USAGE


class CannotRun(GraphwrightError):
    """An artifact that is sound but has no device on this machine to run on: reported as "not run", never as passed."""

    exit_code = ExitCode.NOT_RUN


class PassBroken(GraphwrightError):
    """A pass raised, left an invalid graph, or changed a result; the message holds the pipeline that replays it."""

    exit_code = ExitCode.INTERNAL


@dataclass(frozen=True, slots=True)
class Blocker:
    """One reason why a target cannot take a model."""

    node: str
    operator: str
    reason: str
    source_line: str = ""  # the user's line of code, where the exporter recorded it

    def __str__(self) -> str:
        origin = f" (from {self.source_line})" if self.source_line else ""
        return f"{self.operator} '{self.node}': {self.reason}{origin}"


class ModelBlocked(GraphwrightError):
    """A target cannot take the model; carries every blocker, not just the first."""

    exit_code = ExitCode.BLOCKED

    def __init__(self, target: str, blockers: Sequence[Blocker], *, hint: str = "") -> None:
        self.target = target
        self.blockers = tuple(blockers)
        listed = "\n".join(f"  {blocker}" for blocker in self.blockers)
        super().__init__(f"{target} cannot take this model, {len(self.blockers)} blocker(s):\n{listed}", hint=hint)
