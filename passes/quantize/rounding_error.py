"""The squared error that rounding to 8 bits causes, estimated on a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from passes.quantize.histogram import Bins

    Array = npt.NDArray[np.float64]

ASYMMETRIC_STEPS = 255
SYMMETRIC_STEPS = 254

FRACTIONS: Array = np.concatenate((np.linspace(0.02, 0.09, 8), np.linspace(0.1, 1.0, 91)))
"""Candidate bounds as a share of the observed extreme."""


def rounding_error(bins: Bins, low: float, high: float, steps: int) -> float:
    """Return the summed squared error of all entries, rounded to multiples of (high - low) / steps and clipped.

    Entries lie evenly within their bin, and zero is a multiple: what is far smaller than a step loses itself only.
    """
    step = (high - low) / steps
    if step <= 0:
        return float(bins.counts @ bins.centers**2)
    inside = (bins.centers >= low) & (bins.centers <= high)
    units = bins.edges / step
    whole = np.rint(units)
    integral = whole / 12 + (units - whole) ** 3 / 3  # of (u - rint(u)) ** 2 from 0 to u
    noise = np.diff(integral) / np.diff(units) * step**2
    clipped = (bins.centers - np.clip(bins.centers, low, high)) ** 2
    return float(bins.counts @ np.where(inside, noise, clipped))


class ClippingCost:
    """Expected squared error of an interval, from prefix sums over the bins: constant time for each candidate.

    Rounding noise is taken as step**2 / 12 for every entry that is not zero.
    """

    def __init__(self, bins: Bins) -> None:
        self._centers = bins.centers
        self._sums = [np.concatenate(([0.0], np.cumsum(bins.counts * bins.centers**power))) for power in range(3)]

    def best_interval(self, low: float, high: float) -> tuple[float, float]:
        """Return the least costly interval within [low, high]."""
        lows = low * FRACTIONS if low < 0 else np.zeros(1)
        highs = high * FRACTIONS if high > 0 else np.zeros(1)
        step = (highs[None, :] - lows[:, None]) / ASYMMETRIC_STEPS
        error = self._clipped_below(lows)[:, None] + self._clipped_above(highs)[None, :] + self._noise(step)
        row, column = np.unravel_index(int(np.argmin(error)), error.shape)
        return float(lows[row]), float(highs[column])

    def best_magnitude(self, peak: float) -> float:
        """Return the least costly magnitude up to `peak`."""
        peaks = peak * FRACTIONS
        error = self._clipped_below(-peaks) + self._clipped_above(peaks) + self._noise(2 * peaks / SYMMETRIC_STEPS)
        return float(peaks[int(np.argmin(error))])

    def _noise(self, step: Array) -> Array:
        return np.asarray(self._sums[0][-1] * step**2 / 12)

    def _clipped_above(self, bound: Array) -> Array:
        start = np.searchsorted(self._centers, bound)
        n, s1, s2 = (sums[-1] - sums[start] for sums in self._sums)
        return np.asarray(s2 - 2 * bound * s1 + bound**2 * n)

    def _clipped_below(self, bound: Array) -> Array:
        n, s1, s2 = (sums[np.searchsorted(self._centers, bound)] for sums in self._sums)
        return np.asarray(s2 - 2 * bound * s1 + bound**2 * n)
