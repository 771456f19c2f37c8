"""From a histogram to the interval that an 8-bit activation shall cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from passes.quantize.ranges import ActivationRange

if TYPE_CHECKING:
    import numpy.typing as npt

    from passes.quantize.histogram import ChannelStatistics, Histogram

RangeMethod = Literal["mse", "minmax", "percentile"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

PERCENTILE = 99.99
_ASYMMETRIC_STEPS = 255
_SYMMETRIC_STEPS = 254
_FRACTIONS = np.linspace(0.1, 1.0, 91)
"""Candidate bounds as a share of the observed extreme."""


def range_from_histogram(
    histogram: Histogram, method: RangeMethod, *, channels: ChannelStatistics | None = None
) -> ActivationRange:
    """Return the interval for one activation; it always holds zero, which int8 must represent exactly.

    mse: the interval with the least expected squared error, rounding noise (step**2 / 12) against clipping.
    percentile: the central PERCENTILE of the non-zero entries. minmax: all that was seen.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    magnitude = max(-low, high)
    if histogram.total and magnitude > 0 and method != "minmax":
        if method == "percentile":
            low, high = _percentile(histogram)
            magnitude = max(-low, high)
        else:
            errors = _Moments(histogram)
            low, high = errors.best_interval(low, high)
            magnitude = errors.best_magnitude(magnitude)
    seen = channels.ranges() if channels is not None else None
    return ActivationRange(low, high, histogram.low, histogram.high, magnitude, seen, _typical(histogram))


def _typical(histogram: Histogram) -> float:
    """Return the median magnitude of the entries that are not zero."""
    middle = len(histogram.counts) // 2
    counts = histogram.counts[middle:] + histogram.counts[:middle][::-1]
    counts[0] -= histogram.zeros
    total = int(counts.sum())
    if total == 0:
        return 0.0
    return float((np.searchsorted(np.cumsum(counts), total / 2) + 0.5) * histogram.width)


def _percentile(histogram: Histogram) -> tuple[float, float]:
    middle = len(histogram.counts) // 2
    counts = histogram.counts.copy()
    counts[middle] -= histogram.zeros
    total = int(counts.sum())
    tail = total * (1 - PERCENTILE / 100) / 2
    below = np.cumsum(counts)
    centers, half = histogram.centers(), histogram.width / 2
    first = int(np.searchsorted(below, tail, side="right"))
    last = int(np.searchsorted(below, total - tail, side="left"))
    low = max(float(centers[min(first, len(centers) - 1)] - half), histogram.low)
    high = min(float(centers[min(last, len(centers) - 1)] + half), histogram.high)
    return min(low, 0.0), max(high, 0.0)


class _Moments:
    """Expected squared error of an interval, from prefix sums over the bins: constant time for each candidate."""

    def __init__(self, histogram: Histogram) -> None:
        counts = histogram.counts.astype(np.float64)
        counts[len(counts) // 2] -= histogram.zeros  # exact zeros have no error in any interval
        centers = histogram.centers()
        self.width, self.bins = histogram.width, len(counts)
        self.sums = [np.concatenate(([0.0], np.cumsum(counts * centers**power))) for power in range(3)]

    def best_interval(self, low: float, high: float) -> tuple[float, float]:
        lows = low * _FRACTIONS if low < 0 else np.zeros(1)
        highs = high * _FRACTIONS if high > 0 else np.zeros(1)
        low_grid, high_grid = lows[:, None], highs[None, :]
        step = (high_grid - low_grid) / _ASYMMETRIC_STEPS
        error = self._clipped_below(lows)[:, None] + self._clipped_above(highs)[None, :] + self._noise(step)
        row, column = np.unravel_index(int(np.argmin(error)), error.shape)
        return float(lows[row]), float(highs[column])

    def best_magnitude(self, peak: float) -> float:
        peaks = peak * _FRACTIONS
        error = self._clipped_below(-peaks) + self._clipped_above(peaks) + self._noise(2 * peaks / _SYMMETRIC_STEPS)
        return float(peaks[int(np.argmin(error))])

    def _noise(self, step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(self.sums[0][-1] * step**2 / 12)

    def _clipped_above(self, bound: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        start = self._bin(bound)
        n, s1, s2 = (sums[-1] - sums[start] for sums in self.sums)
        return np.asarray(s2 - 2 * bound * s1 + bound**2 * n)

    def _clipped_below(self, bound: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        n, s1, s2 = (sums[self._bin(bound)] for sums in self.sums)
        return np.asarray(s2 - 2 * bound * s1 + bound**2 * n)

    def _bin(self, bound: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        index = np.rint(bound / self.width).astype(np.intp) + self.bins // 2
        return np.clip(index, 0, self.bins)
