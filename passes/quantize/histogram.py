"""A histogram of a stream whose range is not known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.ranges import ChannelRanges

if TYPE_CHECKING:
    import numpy.typing as npt

HALF_BINS = 4096
"""Bins on either side of zero."""

FINITE_LIMIT = 1e30
"""Magnitudes above this are masks ("minus infinity"), never signal."""

_CHUNK = 1 << 18
_LEAST_EXPONENT = -100


@dataclass(slots=True)
class Histogram:
    """Counts over 2 * HALF_BINS bins of width 2**exponent around zero, in memory that does not grow.

    A value beyond the range doubles the bin width until it fits; bins are aligned at zero, so merging pairs is exact:
    the result is the histogram of all the data at the final width, whatever the order and the size of the pieces.
    Exact zeros are counted apart. Non-finite entries and magnitudes above FINITE_LIMIT are left out and counted.
    """

    exponent: int | None = None
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * HALF_BINS, np.int64))
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf
    left_out: int = 0

    @property
    def total(self) -> int:
        """How many entries were counted, zeros included."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of one bin, in the data's units."""
        return float(np.ldexp(1.0, self.exponent if self.exponent is not None else _LEAST_EXPONENT))

    def centers(self) -> npt.NDArray[np.float64]:
        """Return the middle of each bin."""
        return (np.arange(-HALF_BINS, HALF_BINS, dtype=np.float64) + 0.5) * self.width

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count every entry of `values`, of any shape."""
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)) or max(-low, high) > FINITE_LIMIT:
            kept = flat[np.isfinite(flat) & (np.abs(flat) <= FINITE_LIMIT)]
            self.left_out += flat.size - kept.size
            flat = kept
            if flat.size == 0:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        assert self.exponent is not None
        scale = np.float32(np.ldexp(1.0, -self.exponent))
        self.zeros += flat.size - int(np.count_nonzero(flat))
        for start in range(0, flat.size, _CHUNK):
            index = np.floor(flat[start : start + _CHUNK] * scale).astype(np.int32)
            np.clip(index, -HALF_BINS, HALF_BINS - 1, out=index)
            index += HALF_BINS
            self.counts += np.bincount(index, minlength=2 * HALF_BINS)

    def _grow(self, peak: float) -> None:
        needed = max(int(np.frexp(peak)[1]) - (HALF_BINS.bit_length() - 1), _LEAST_EXPONENT)
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(2 * HALF_BINS, np.int64)
            self.counts[HALF_BINS // 2 : HALF_BINS // 2 + HALF_BINS] = merged
            self.exponent += 1


@dataclass(slots=True)
class ChannelStatistics:
    """Running extremes, sum and sum of squares of each channel along one axis; masked entries count as zero."""

    axis: int
    low: npt.NDArray[np.float64] | None = None
    high: npt.NDArray[np.float64] | None = None
    total: npt.NDArray[np.float64] | None = None
    squares: npt.NDArray[np.float64] | None = None
    count: int = 0

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count `values`, whose size along `axis` is the same in every call."""
        moved = np.moveaxis(values, self.axis, -1).reshape(-1, values.shape[self.axis])
        if moved.shape[0] == 0:
            return
        low, high = moved.min(axis=0), moved.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()) or max(-low.min(), high.max()) > FINITE_LIMIT:
            moved = np.where(np.isfinite(moved) & (np.abs(moved) <= FINITE_LIMIT), moved, np.float32(0))
            low, high = moved.min(axis=0), moved.max(axis=0)
        total = moved.sum(axis=0, dtype=np.float64)
        squares = np.einsum("nc,nc->c", moved, moved, dtype=np.float64)
        self.low = low.astype(np.float64) if self.low is None else np.minimum(self.low, low)
        self.high = high.astype(np.float64) if self.high is None else np.maximum(self.high, high)
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += moved.shape[0]

    def ranges(self) -> ChannelRanges | None:
        """Return what was seen by channel; None when nothing was."""
        if self.low is None or self.high is None or self.total is None or self.squares is None:
            return None
        columns = (self.low, self.high, self.total / self.count, self.squares / self.count)
        low, high, mean, square = (tuple(float(value) for value in column) for column in columns)
        return ChannelRanges(low, high, mean, square, self.count)
