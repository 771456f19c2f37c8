"""From a histogram to the interval that an 8-bit activation shall cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from passes.quantize.entropy import least_divergence
from passes.quantize.ranges import ActivationRange
from passes.quantize.rounding_error import ASYMMETRIC_STEPS, SYMMETRIC_STEPS, ClippingCost, rounding_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from passes.quantize.channel_statistics import ChannelStatistics
    from passes.quantize.histogram import Bins, Histogram

    Covered = tuple[float, float, float]  # low, high, and the magnitude of a symmetric scale

RangeMethod = Literal["mse", "minmax", "moving-average", "percentile", "entropy", "auto"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

PERCENTILE = 99.99


def range_from_histogram(
    histogram: Histogram,
    method: RangeMethod,
    *,
    channels: ChannelStatistics | None = None,
    keeps_outliers: bool = False,
) -> ActivationRange:
    """Return the interval for one activation; it always holds zero, which int8 must represent exactly.

    mse: the interval with the least expected squared error, so with the greatest SQNR: rounding noise (step**2 / 12)
    against clipping. minmax: all that was seen. moving-average: the mean of each sample's extremes (after Jacob et al.
    2017, arXiv 1712.05877, 3.1; here all samples weigh the same). percentile: the central PERCENTILE of the non-zero
    entries. entropy: the least divergence from what was seen (Migacz 2017). auto: of all these, the one with the least
    error when the histogram's entries are rounded to it.
    keeps_outliers: what reads the value depends on its extremes, so auto clips nothing.
    """
    covered = _everything(histogram)
    typical = 0.0
    if histogram.total and covered[2] > 0:
        bins = histogram.bins()
        typical = _median_magnitude(bins)
        if method != "auto":
            covered = _METHODS[method](histogram, bins)
        elif not keeps_outliers:
            covered = _least_error(histogram, bins)
    seen = channels.ranges() if channels is not None else None
    low, high, magnitude = covered
    return ActivationRange(low, high, histogram.low, histogram.high, magnitude, seen, typical)


def _everything(histogram: Histogram) -> Covered:
    return _with_zero(histogram.low, histogram.high)


def _with_zero(low: float, high: float) -> Covered:
    low, high = min(low, 0.0), max(high, 0.0)
    return low, high, max(-low, high)


def _least_error(histogram: Histogram, bins: Bins) -> Covered:
    candidates = [method(histogram, bins) for method in _METHODS.values()]
    low, high, _ = min(candidates, key=lambda each: rounding_error(bins, each[0], each[1], ASYMMETRIC_STEPS))
    magnitudes = (magnitude for _, _, magnitude in candidates)
    return low, high, min(magnitudes, key=lambda peak: rounding_error(bins, -peak, peak, SYMMETRIC_STEPS))


def _mse(histogram: Histogram, bins: Bins) -> Covered:
    low, high, magnitude = _everything(histogram)
    cost = ClippingCost(bins)
    return *cost.best_interval(low, high), cost.best_magnitude(magnitude)


def _moving_average(histogram: Histogram, bins: Bins) -> Covered:
    return _with_zero(histogram.low_sum / histogram.pieces, histogram.high_sum / histogram.pieces)


def _percentile(histogram: Histogram, bins: Bins) -> Covered:
    below = np.cumsum(bins.counts)
    tail = below[-1] * (1 - PERCENTILE / 100) / 2
    last = len(below) - 1
    first_kept = min(int(np.searchsorted(below, tail, side="right")), last)
    last_kept = min(int(np.searchsorted(below, below[-1] - tail, side="left")), last)
    low, high = float(bins.edges[first_kept]), float(bins.edges[last_kept + 1])
    return _with_zero(max(low, histogram.low), min(high, histogram.high))


def _entropy(histogram: Histogram, bins: Bins) -> Covered:
    low, high, _ = _everything(histogram)
    return least_divergence(bins, low, high)


def _median_magnitude(bins: Bins) -> float:
    """Return the median magnitude of the entries that are not zero; 0 without any."""
    half = len(bins.counts) // 2
    folded = bins.counts[half:].copy()  # [0] is the middle bin
    folded[1:] += bins.counts[:half][::-1]
    below = np.cumsum(folded)
    return float(bins.centers[half + int(np.searchsorted(below, below[-1] / 2))]) if below[-1] > 0 else 0.0


_METHODS: Mapping[str, Callable[[Histogram, Bins], Covered]] = {
    "mse": _mse,
    "minmax": lambda histogram, _: _everything(histogram),
    "moving-average": _moving_average,
    "percentile": _percentile,
    "entropy": _entropy,
}
