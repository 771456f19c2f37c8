"""Several ways to run one model, timed in turn on the same input, in an order shuffled each round.

The first is timed twice a round (A B C A, C A A B ...): what its ratio to itself seems to be is the noise.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from exporter.evaluation.accuracy import shapes_of
from exporter.evaluation.interference import MOST_SHARE, processor_times, share_of_others
from exporter.evaluation.statistics import (
    FEWEST_ROUNDS,
    NO_DIFFERENCE,
    conclude,
    median_interval,
    noise_floor,
    ratio_interval,
)
from exporter.evaluation.tolerance import GateSpec
from exporter.results import Gate, Latency, SpeedComparison, Verdict
from passes.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from exporter.sources.base import Feeds

Runnable = Callable[["Feeds"], Any]

AGAIN = "\0again"
"""The label under which the first runner is timed a second time in each round."""


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """How long to measure.

    budget_s: wall time for the timed rounds; at least FEWEST_ROUNDS are run even when it is overrun.
    warmup_s: wall time for warming up one runner after its first call, which may compile for as long as it needs.
    block_ms: calls are repeated inside one timing until it takes about this long, so that the clock's own cost drowns.
    """

    budget_s: float = 10.0
    warmup_s: float = 2.0
    block_ms: float = 1.0
    most_rounds: int = 200
    fewest_rounds: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One interleaved session.

    times_ms: label -> mean time of one call in each round; all labels have the same rounds.
    again_ms: the first label, timed a second time in each round.
    is_disturbed: other processes took so much of the processors that no difference is concluded.
    warmup_calls: label -> calls before the timing; failed: label -> why that one was left out.
    """

    times_ms: Mapping[str, tuple[float, ...]]
    again_ms: tuple[float, ...]
    input_shapes: str
    threads: int
    warmup_calls: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_disturbed: bool = False

    @property
    def rounds(self) -> int:
        return len(self.again_ms)

    @property
    def noise_floor(self) -> float:
        """How far from 1 the first runner's ratio to itself may seem to be, at least 0.02."""
        first = next(iter(self.times_ms.values()), ())
        return noise_floor(first, self.again_ms)

    def latency(self, label: str) -> Latency:
        """Return the median time of one call with its 95% interval."""
        times = self.times_ms[label]
        interval = median_interval(times)
        return Latency(label, interval.median, max(interval.low, 0.0), interval.high, len(times), times)

    def compare(self, baseline: str, candidate: str) -> SpeedComparison:
        """Return `candidate` against `baseline`; both must have been measured."""
        ratio = ratio_interval(self.times_ms[baseline], self.times_ms[candidate])
        floor = self.noise_floor
        return SpeedComparison(
            baseline=self.latency(baseline),
            candidate=self.latency(candidate),
            ratio=ratio.median,
            ratio_low=max(ratio.low, 0.0),
            ratio_high=ratio.high,
            conclusion=NO_DIFFERENCE if self.is_disturbed else conclude(ratio, floor),
            input_shapes=self.input_shapes,
            threads=self.threads,
            noise_floor=floor,
            notes=self.notes,
            is_disturbed=self.is_disturbed,
        )


def measure(
    runners: Mapping[str, Runnable],
    feeds: Feeds,
    *,
    threads: int,
    plan: TimingPlan = TimingPlan(),
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    advance: Callable[[], None] = lambda: None,
) -> Measurement:
    """Return the times of all `runners` on `feeds`; the first is the baseline, timed twice in each round.

    `threads` is what the runners were opened with; it is stated, not set. A runner that raises while warming up is left
    out, and `failed` says why; one that raises later ends the measurement with its exception.
    """
    if not runners:
        raise UsageError("There is nothing to measure.")
    notes: tuple[str, ...] = ()
    calls: dict[str, int] = {}
    blocks: dict[str, int] = {}
    failed: dict[str, str] = {}
    with _no_garbage_collection():
        for label, run in runners.items():
            try:
                calls[label], typical_ns = _warm_up(run, feeds, plan, clock_ns)
            except Exception as error:
                failed[label] = f"{type(error).__name__}: {error}"
                continue
            blocks[label] = max(1, math.ceil(plan.block_ms * 1e6 / max(typical_ns, 1)))
        if not blocks:
            return Measurement({}, (), shapes_of(feeds), threads, {}, failed, notes)
        first = next(iter(blocks))
        lanes = {label: (runners[label], blocks[label]) for label in blocks}
        lanes[AGAIN] = lanes[first]
        before = processor_times()
        times = _rounds(lanes, feeds, plan, clock_ns, advance)
        others = share_of_others(before, processor_times())
        if others is not None and others > MOST_SHARE:
            notes = (*notes, f"other processes took {others:.0%} of the processors: nothing is concluded from this")
    again = times.pop(AGAIN)
    return Measurement(
        {label: tuple(values) for label, values in times.items()},
        tuple(again),
        shapes_of(feeds),
        threads,
        calls,
        failed,
        notes,
        is_disturbed=others is not None and others > MOST_SHARE,
    )


def _rounds(
    lanes: Mapping[str, tuple[Runnable, int]],
    feeds: Feeds,
    plan: TimingPlan,
    clock_ns: Callable[[], int],
    advance: Callable[[], None],
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {label: [] for label in lanes}
    order = list(lanes)
    shuffle = random.Random(plan.seed).shuffle
    started = clock_ns()
    fewest = max(plan.fewest_rounds, FEWEST_ROUNDS)
    for done in range(max(plan.most_rounds, fewest)):
        elapsed_s = (clock_ns() - started) / 1e9
        if elapsed_s >= plan.budget_s and (
            done >= fewest or (done >= FEWEST_ROUNDS and elapsed_s >= 2 * plan.budget_s)
        ):
            break
        shuffle(order)
        for label in order:
            run, block = lanes[label]
            begin = clock_ns()
            for _ in range(block):
                run(feeds)
            times[label].append(round(max(clock_ns() - begin, 1) / block) / 1e6)
        advance()
    return times


def _warm_up(run: Runnable, feeds: Feeds, plan: TimingPlan, clock_ns: Callable[[], int]) -> tuple[int, float]:
    """Call until two windows of five calls agree within 5%, or the time is up; return the calls and a typical time."""
    run(feeds)
    recent: list[int] = []
    started = clock_ns()
    while True:
        begin = clock_ns()
        run(feeds)
        end = clock_ns()
        recent.append(max(end - begin, 1))
        if (end - started) / 1e9 >= plan.warmup_s or len(recent) >= 1000:
            break
        if len(recent) >= 10 and abs(median(recent[-5:]) / median(recent[-10:-5]) - 1.0) <= 0.05:
            break
    return len(recent) + 1, float(median(recent[-5:]))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def judge_speed(
    gates: Sequence[GateSpec], comparison: SpeedComparison | None, *, name: str = "speedup", reason: str = ""
) -> tuple[Gate, ...]:
    """Return the gates `name` judged by the lower end of the ratio's interval: what is proved, not what is likely.

    `comparison` is the artifact against the original run eagerly, for `speedup`, or against the fastest float artifact
    of its target, for `speedup_over_float`; without it the gates are NOT_RUN for `reason`.
    """
    judged = []
    for spec in gates:
        if spec.name != name:
            continue
        if comparison is None:
            why = reason or "no speed was measured"
            judged.append(Gate(spec.name, spec.threshold, None, Verdict.NOT_RUN, why, ExitCode.SPEED))
            continue
        proved = comparison.ratio_low
        in_noise = spec.threshold >= 1.0 and comparison.conclusion != "faster"
        verdict = Verdict.PASSED if spec.is_met_by(proved) and not in_noise else Verdict.FAILED
        why = f"lower end of the interval; the median ratio is {comparison.ratio:.3f}"
        if in_noise:
            why += f"; not faster beyond the noise of {comparison.noise_floor:.1%}"
        judged.append(Gate(spec.name, spec.threshold, proved, verdict, why, ExitCode.SPEED))
    return tuple(judged)


def judge_size(gates: Sequence[GateSpec], *, artifact_bytes: int, model_bytes: int) -> tuple[Gate, ...]:
    """Return the `size_ratio` gates judged: the artifact's bytes over the fp32 model's. Unknown sizes are NOT_RUN."""
    judged = []
    for spec in gates:
        if spec.name != "size_ratio":
            continue
        if artifact_bytes <= 0 or model_bytes <= 0:
            why = "a size is not known"
            judged.append(Gate(spec.name, spec.threshold, None, Verdict.NOT_RUN, why, ExitCode.SPEED))
            continue
        ratio = artifact_bytes / model_bytes
        verdict = Verdict.PASSED if spec.is_met_by(ratio) else Verdict.FAILED
        why = f"{artifact_bytes} of {model_bytes} bytes"
        judged.append(Gate(spec.name, spec.threshold, ratio, verdict, why, ExitCode.SPEED))
    return tuple(judged)


__all__ = ["NO_DIFFERENCE", "Measurement", "TimingPlan", "judge_size", "judge_speed", "measure"]
