"""The speed of a build's artifacts, beside the original's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from exporter.lowering import Lowered
from exporter.original import Original
from exporter.recipe import Recipe
from exporter.report.progress import Progress
from exporter.results import Verdict
from exporter.timing import EAGER, Runners, Speeds, time_runners, timing_feeds


def measure_all(recipe: Recipe, original: Original, lowered: Sequence[Lowered], *, progress: Progress) -> Speeds:
    """Return the speed of every artifact whose outputs were right; a wrong one is not worth timing."""
    if recipe.speed_seconds == 0:
        return Speeds(not_measured="speed was not asked for")
    timed = [each for each in lowered if each.artifact is not None and each.report.verdict is Verdict.PASSED]
    if not timed:
        return Speeds(not_measured="no artifact with right outputs can run here")
    with ExitStack() as stack:
        runners = Runners(stack)
        runners.add(EAGER, original.source.reference(threads=original.threads))
        if recipe.baselines:
            runners.add_all(original.source.baselines(threads=original.threads))
        for each in timed:
            assert each.artifact is not None
            runners.add(each.job.title, each.job.target.open(each.artifact, threads=original.threads))
        groups = {each.job.title: each.job.target.name for each in timed}
        feeds = timing_feeds(feeds for feeds, _ in original.references)
        return time_runners(
            runners, groups, feeds, threads=original.threads, seconds=recipe.speed_seconds, progress=progress
        )
