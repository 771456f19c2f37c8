"""Medians, their distribution-free intervals, and what may be concluded from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95

FEWEST_ROUNDS = 6
"""Below this, no pair of order statistics encloses the median with 95% confidence: 1 - 2 / 2**5 is 0.9375."""

LEAST_MARGIN = 0.02
"""A ratio nearer to 1 than this is never called a difference, however narrow its interval."""

Conclusion = Literal["faster", "slower", "no difference beyond noise"]
NO_DIFFERENCE: Conclusion = "no difference beyond noise"


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with its confidence interval; (-inf, inf) where there are too few values for one."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Return the median of independent `values` and the narrowest symmetric pair of order statistics around it.

    The number of values below the true median is binomial(n, 1/2) whatever the distribution, so the k-th smallest and
    k-th greatest enclose it with probability 1 - 2 P(fewer than k). (Conover, Practical Nonparametric Statistics, 3.2.)
    """
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        return Interval(math.nan, -math.inf, math.inf)
    middle = count // 2
    median = ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    rank = interval_rank(count, confidence=confidence)
    if rank == 0:
        return Interval(median, -math.inf, math.inf)
    return Interval(median, ordered[rank - 1], ordered[count - rank])


def interval_rank(count: int, *, confidence: float = CONFIDENCE) -> int:
    """Return the greatest k for which the k-th smallest and k-th greatest value enclose the median; 0 for none."""
    allowed = (1.0 - confidence) / 2.0
    below, rank = 0.0, 0
    while rank < (count + 1) // 2:
        choices = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        below += math.exp(choices - count * math.log(2.0))
        if below > allowed:
            break
        rank += 1
    return rank


def ratio_interval(baseline: Sequence[float], candidate: Sequence[float]) -> Interval:
    """Return the median over rounds of baseline/candidate, with its interval; the two are paired by round.

    Above 1 the candidate is faster. Pairing takes out what slows a whole round down.
    """
    return median_interval([ours / theirs for ours, theirs in zip(baseline, candidate, strict=True)])


def noise_floor(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how far from 1 the ratio of something to itself may seem: the far end of its interval, at least 0.02.

    `first` and `second` time the same thing in the same rounds. inf with too few rounds.
    """
    interval = ratio_interval(first, second)
    if not math.isfinite(interval.high) or interval.low <= 0:
        return math.inf
    return max(LEAST_MARGIN, interval.high - 1.0, 1.0 / interval.low - 1.0)


def conclude(ratio: Interval, floor: float) -> Conclusion:
    """Return "faster" or "slower" only when the whole interval clears 1 by more than `floor`."""
    if ratio.low > 1.0 + floor:
        return "faster"
    if 0 < ratio.high < 1.0 / (1.0 + floor):
        return "slower"
    return NO_DIFFERENCE
