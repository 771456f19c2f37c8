"""Ranges by information loss: the interval whose 8-bit histogram diverges least from what was seen.

S. Migacz, "8-bit inference with TensorRT", GPU Technology Conference 2017, with two differences. Bins are so fine (256
for each power of two) that a level always holds several, so a narrow interval is not free of loss; and since bins
differ in width, a level's entries are spread over its bins by width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.rounding_error import ASYMMETRIC_STEPS, SYMMETRIC_STEPS

if TYPE_CHECKING:
    import numpy.typing as npt

    from passes.quantize.histogram import Bins

    Array = npt.NDArray[np.float64]

_FRACTIONS: Array = np.geomspace(1.0, 0.05, 64)
"""Candidate bounds as a share of the observed extreme, the widest first: it wins a tie."""

_LEAST_ENTRIES = 0.5
"""What a level without entries counts as, where clipped ones fall into it: its loss is great, not infinite."""


def least_divergence(bins: Bins, low: float, high: float) -> tuple[float, float, float]:
    """Return the best interval within [low, high], low <= 0 <= high, and the best magnitude of a symmetric one.

    Both bounds shrink together first, then each by itself.
    """
    loss = _Divergence(bins)
    ones = np.ones(len(_FRACTIONS))
    best = int(np.argmin(loss(low * _FRACTIONS, high * _FRACTIONS, ASYMMETRIC_STEPS)))
    low, high = low * _FRACTIONS[best], high * _FRACTIONS[best]
    peak = max(-low, high) / _FRACTIONS[best]
    if low < 0 < high:
        low *= _FRACTIONS[int(np.argmin(loss(low * _FRACTIONS, high * ones, ASYMMETRIC_STEPS)))]
        high *= _FRACTIONS[int(np.argmin(loss(low * ones, high * _FRACTIONS, ASYMMETRIC_STEPS)))]
    peaks = peak * _FRACTIONS
    return float(low), float(high), float(peaks[int(np.argmin(loss(-peaks, peaks, SYMMETRIC_STEPS)))])


class _Divergence:
    """Kullback-Leibler divergence for many intervals at once, from prefix sums over the bins."""

    def __init__(self, bins: Bins) -> None:
        counts, widths = bins.counts, np.diff(bins.edges)
        self._centers, self._widths, self._entries = bins.centers, widths, counts
        self._logs = _n_log(counts, widths)
        self._counts, self._filled, self._own = (
            np.concatenate(([0.0], np.cumsum(column)))
            for column in (counts, np.where(counts > 0, widths, 0.0), self._logs)
        )

    def __call__(self, lows: Array, highs: Array, steps: int) -> Array:
        """Return the divergence of each interval, cut into `steps` + 1 levels, in nats."""
        shares = np.linspace(0.0, 1.0, steps + 2)
        edges = lows[:, None] + (highs - lows)[:, None] * shares  # [C, L + 1]
        index = np.searchsorted(self._centers, edges)
        first, last = index[:, 0], np.maximum(index[:, -1], index[:, 0] + 1) - 1  # the outermost bins
        entries = np.diff(self._counts[index], axis=1)  # [C, L]
        filled = np.diff(self._filled[index], axis=1)
        total, inside = self._counts[-1], entries.sum(axis=1)
        seen = self._own[index[:, -1]] - self._own[index[:, 0]]
        cross = np.sum(_n_log(entries, filled), axis=1)
        for end, level, clipped in ((first, 0, self._counts[first]), (last, -1, total - self._counts[last + 1])):
            own, width = self._entries[end], self._widths[end]
            seen += _n_log(own + clipped, width) - self._logs[end]
            held = np.maximum(entries[:, level], _LEAST_ENTRIES)
            spread = np.maximum(filled[:, level], width)
            cross += np.where(clipped > 0, clipped * np.log(held / spread), 0.0)
        loss = (seen - cross) / total + np.log(np.maximum(inside, _LEAST_ENTRIES) / total)
        return np.where(inside < total / 2, np.inf, loss)  # when all is clipped to one level, nothing diverges


def _n_log(entries: Array, width: Array) -> Array:
    """Return n * log(n / width), 0 for no entries."""
    ratio = np.divide(entries, width, out=np.ones_like(entries), where=(entries > 0) & (width > 0))
    return np.asarray(entries * np.log(ratio))
