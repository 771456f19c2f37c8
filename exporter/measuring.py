"""Speed: the original and every artifact that runs here, open at once and timed in turn on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.lowering import Lowered
from exporter.original import Original
from exporter.recipe import Recipe
from exporter.report.progress import Progress
from exporter.results import SpeedComparison, Verdict
from exporter.verify.speed import TimingPlan, measure
from passes.errors import GraphwrightError

if TYPE_CHECKING:
    from exporter.sources.base import Feeds

EAGER = "original"
"""The label of the original as its framework runs it."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was timed. artifacts: title -> comparisons with the original, its baselines and its siblings of one target.

    not_measured says why there is nothing for anything; "" when something was measured.
    """

    artifacts: dict[str, tuple[SpeedComparison, ...]] = field(default_factory=dict)
    baselines: tuple[SpeedComparison, ...] = ()
    notes: tuple[str, ...] = ()
    not_measured: str = ""


def measure_all(
    recipe: Recipe, original: Original, lowered: Sequence[Lowered], *, stack: ExitStack, progress: Progress
) -> Speeds:
    """Return the speed of every artifact whose outputs were right; a wrong one is not worth timing."""
    if recipe.speed_seconds == 0:
        return Speeds(not_measured="speed was not asked for")
    runners: dict[str, Callable[[Feeds], object]] = {}
    notes: list[str] = []
    runners[EAGER] = stack.enter_context(original.source.reference(threads=original.threads))
    if recipe.baselines:
        for label, manager in original.source.baselines(threads=original.threads):
            try:
                runners[label] = stack.enter_context(manager)
            except GraphwrightError as error:
                notes.append(f"{label} was not timed: {error}")
    for each in lowered:
        if each.artifact is not None and each.report.verdict is Verdict.PASSED:
            manager = each.job.target.open(each.artifact, threads=each.job.options.threads)
            runners[each.job.title] = stack.enter_context(manager)
    titles = {each.job.title: each.job.target.name for each in lowered if each.job.title in runners}
    found: dict[str, list[SpeedComparison]] = {title: [] for title in titles}
    baselines: list[SpeedComparison] = []
    for feeds in original.timing_feeds():
        progress.stage("time in turn: " + ", ".join(runners))
        session = measure(runners, feeds, threads=original.threads, plan=TimingPlan(budget_s=recipe.speed_seconds))
        progress.done()
        notes += [f"{label} was not timed: {reason}" for label, reason in session.failed.items()]
        others = [label for label in session.times_ms if label not in titles]
        baselines += [session.compare(EAGER, label) for label in others if label != EAGER]
        for title, target in titles.items():
            if title in session.times_ms:
                against = [*others, *(other for other, its in titles.items() if its == target and other != title)]
                found[title] += [session.compare(label, title) for label in against if label in session.times_ms]
    return Speeds(
        {title: tuple(comparisons) for title, comparisons in found.items()},
        tuple(baselines),
        tuple(dict.fromkeys(notes)),
    )
