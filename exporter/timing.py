"""Several runners open at once, timed in turn, and compared with the original and within each target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.evaluation.speed import TimingPlan, measure
from exporter.report.progress import Progress
from exporter.results import SpeedComparison
from passes.errors import ArtifactRefused, GraphwrightError

if TYPE_CHECKING:
    from exporter.sources.base import Feeds
    from targets.base import Runner

EAGER = "original"
"""The label of the original as its framework runs it."""


@dataclass(frozen=True, slots=True)
class Runners:
    """Runners kept open by `stack`, by label; `notes` says which could not be opened and why."""

    stack: ExitStack
    opened: dict[str, Runner] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, label: str, manager: AbstractContextManager[Runner]) -> str:
        """Open one more; return why it could not be opened, or ""."""
        try:
            self.opened[label] = self.stack.enter_context(manager)
        except ArtifactRefused:
            raise
        except GraphwrightError as error:
            self.notes.append(f"{label} was not timed: {error.one_line}")
            return error.one_line
        return ""

    def add_all(self, managers: Iterable[tuple[str, AbstractContextManager[Runner]]]) -> None:
        for label, manager in managers:
            self.add(label, manager)


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was timed. artifacts: title -> comparisons with the original, its baselines and its siblings of one target.

    baselines: the original's other forms (torch.compile) against the original. not_measured: why nothing was timed.
    """

    artifacts: Mapping[str, tuple[SpeedComparison, ...]] = field(default_factory=dict)
    baselines: tuple[SpeedComparison, ...] = ()
    notes: tuple[str, ...] = ()
    timed: frozenset[str] = frozenset()
    not_measured: str = ""


def time_runners(
    runners: Runners,
    groups: Mapping[str, str],
    feeds: Sequence[Feeds],
    *,
    threads: int,
    seconds: float,
    progress: Progress,
) -> Speeds:
    """Return the times of all open runners on each of `feeds`.

    `groups` maps an artifact's title to its target: artifacts are compared with every runner that is no artifact, and
    with the artifacts of their own target.
    """
    callables: dict[str, Callable[[Feeds], object]] = dict(runners.opened)
    found: dict[str, list[SpeedComparison]] = {title: [] for title in groups}
    baselines: list[SpeedComparison] = []
    notes = list(runners.notes)
    timed: set[str] = set()
    for each in feeds:
        progress.stage("time in turn: " + ", ".join(callables))
        session = measure(callables, each, threads=threads, plan=TimingPlan(budget_s=seconds))
        progress.done()
        notes += [f"{label} was not timed: {reason}" for label, reason in session.failed.items()]
        timed.update(session.times_ms)
        notes += [f"at {session.input_shapes}: {note}" for note in session.notes]
        for latency in map(session.latency, session.times_ms):
            interval = f"[{latency.low_ms:.3g}, {latency.high_ms:.3g}]"
            notes.append(f"{latency.label} takes {latency.median_ms:.3g} ms {interval} at {session.input_shapes}")
        others = [label for label in session.times_ms if label not in groups]
        if EAGER in others:
            baselines += [session.compare(EAGER, label) for label in others if label != EAGER]
        for title, target in groups.items():
            if title not in session.times_ms:
                continue
            siblings = [label for label, its in groups.items() if its == target and label != title]
            against = [label for label in (*others, *siblings) if label in session.times_ms]
            found[title] += [session.compare(label, title) for label in against]
    return Speeds(
        {title: tuple(comparisons) for title, comparisons in found.items()},
        tuple(baselines),
        tuple(dict.fromkeys(notes)),
        frozenset(timed),
    )


def timing_feeds(samples: Iterable[Feeds]) -> tuple[Feeds, ...]:
    """Return up to two samples to time: the largest of the least batch size, and the largest of all."""
    least: Feeds | None = None
    largest: Feeds | None = None
    for feeds in samples:
        if least is None or (_batch(feeds), -_elements(feeds)) < (_batch(least), -_elements(least)):
            least = feeds
        if largest is None or _elements(feeds) > _elements(largest):
            largest = feeds
    if least is None or largest is None:
        return ()
    return (least,) if _batch(least) == _batch(largest) else (least, largest)


def _batch(feeds: Feeds) -> int:
    return min((value.shape[0] for value in feeds.values() if value.ndim), default=0)


def _elements(feeds: Feeds) -> int:
    return sum(value.size for value in feeds.values())
