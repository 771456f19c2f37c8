"""The latency of the candidates that are worth comparing, all open at once and timed in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from exporter.evaluation.speed import TimingPlan, measure
from exporter.report.summary import compact_shapes
from exporter.results import Latency
from exporter.timing import Runners

if TYPE_CHECKING:
    from exporter.report.progress import Progress
    from exporter.search.candidates import Candidate
    from exporter.search.trials import Trials
    from exporter.sources.base import Feeds

MOST_TIMED = 8
"""Candidates that are timed against each other."""


@dataclass(frozen=True, slots=True)
class Race:
    """latencies: candidate -> input shapes -> its time. is_disturbed: other processes took too much of the machine."""

    latencies: Mapping[Candidate, Mapping[str, Latency]] = field(default_factory=dict)
    is_disturbed: bool = False
    notes: tuple[str, ...] = ()

    def cost(self, candidate: Candidate) -> float:
        """Return the candidate's time over the first one's, averaged over the input shapes."""
        first = next(iter(self.latencies.values()))
        own = self.latencies[candidate]
        return fmean(own[shapes].median_ms / first[shapes].median_ms for shapes in first)


def race(
    trials: Trials, candidates: Sequence[Candidate], feeds: Sequence[Feeds], *, seconds: float, progress: Progress
) -> Race:
    """Return the times of `candidates` on each of `feeds`; one that cannot be opened is left out, with a note."""
    notes: list[str] = []
    latencies: dict[Candidate, dict[str, Latency]] = {}
    is_disturbed = False
    with ExitStack() as stack:
        runners = Runners(stack)
        named = {candidate.key: candidate for candidate in candidates}
        for key, candidate in named.items():
            built = trials.build(candidate)
            reason = runners.add(key, built.job.target.open(built.artifact, threads=trials.original.threads))
            if reason:
                notes.append(f"{candidate.title} was not timed: {reason}")
        for each in feeds:
            if not runners.opened:
                break
            progress.stage(f"time {len(runners.opened)} candidates in turn")
            session = measure(runners.opened, each, threads=trials.original.threads, plan=TimingPlan(budget_s=seconds))
            progress.done()
            is_disturbed = is_disturbed or session.is_disturbed
            notes += [f"{named[key].title} was not timed: {reason}" for key, reason in session.failed.items()]
            notes += [f"at {session.input_shapes}: {note}" for note in session.notes]
            for key in session.times_ms:
                latencies.setdefault(named[key], {})[compact_shapes(session.input_shapes)] = session.latency(key)
    complete = max(map(len, latencies.values()), default=0)
    whole = {candidate: times for candidate, times in latencies.items() if len(times) == complete}
    return Race(whole, is_disturbed, tuple(dict.fromkeys(notes)))
