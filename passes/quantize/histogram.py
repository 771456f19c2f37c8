"""A histogram of a stream whose range is not known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]
    Array = npt.NDArray[np.float64]

FINITE_LIMIT = 1e30
"""Magnitudes above this are masks ("minus infinity"), never signal."""

OCTAVES = 20
"""Bins reach from the greatest magnitude down to this many halvings of it; what is smaller shares one bin."""

COUNTED_ENTRIES = 1 << 17
"""Of an array with more entries than this, about so many are counted, at equal distances."""

_BITS = 8
_BINS = OCTAVES << _BITS  # on one side of zero
_SHIFT = np.uint32(23 - _BITS)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(31)
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Bins:
    """The counts of a histogram as floats, from the most negative bin to the most positive; exact zeros left out.

    edges are one more than counts.
    """

    edges: Array
    counts: Array

    @cached_property
    def centers(self) -> Array:
        """The middle of each bin."""
        return (self.edges[:-1] + self.edges[1:]) / 2


@dataclass(slots=True)
class Histogram:
    """Counts in 256 bins for each power of two, on either side of zero, in memory that does not grow.

    A bin is what float32 numbers share in sign, exponent and the first 8 bits of their fraction, so its width is at
    most 1/256 of its values, and one outlier does not coarsen the rest. Bins below OCTAVES halvings of the greatest
    magnitude are one; the result is that of all the data at once, whatever the order and the size of the pieces.
    Exact zeros are counted apart. Non-finite entries and magnitudes above FINITE_LIMIT are left out and counted.
    low and high are the exact extremes; low_sum and high_sum add up those of each piece.
    """

    top: int = OCTAVES
    sides: dict[str, Counts] = field(default_factory=dict)
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf
    low_sum: float = 0.0
    high_sum: float = 0.0
    pieces: int = 0
    left_out: int = 0

    @property
    def total(self) -> int:
        """How many entries were counted, zeros included."""
        return sum(int(counts.sum()) for counts in self.sides.values())

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count the entries of `values`, of any shape; of large arrays a part, with the extremes of all.

        The part is every n-th entry, where n shares no factor with a dimension: each row and channel has its share.
        """
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
        self.low_sum, self.high_sum, self.pieces = self.low_sum + low, self.high_sum + high, self.pieces + 1
        self._grow(max(-low, high))
        step = _step(flat.size, values.shape)
        self._count(flat[self.pieces % step :: step], step, is_signed=low < 0)
        if step > 1:  # what clipping costs must show even if the part missed the extremes
            self._count(np.array([low, high], np.float32), 1, is_signed=low < 0)

    def bins(self) -> Bins:
        """Return the bins in order; the two next to zero are one."""
        positive, negative = (self.sides.get(side, np.zeros(_BINS, np.int64)) for side in "+-")
        middle = positive[0] + negative[0] - self.zeros
        counts = np.concatenate((negative[:0:-1], [middle], positive[1:])).astype(np.float64)
        bits = (np.arange(1, _BINS + 1, dtype=np.uint32) + np.uint32(self._base)) << _SHIFT
        edges = bits.view(np.float32).astype(np.float64)
        return Bins(np.concatenate((-edges[::-1], edges)), counts)

    @property
    def _base(self) -> int:
        return (self.top - OCTAVES + 1) << _BITS

    def _count(self, flat: npt.NDArray[np.float32], weight: int, *, is_signed: bool) -> None:
        self.zeros += (flat.size - int(np.count_nonzero(flat))) * weight
        base = np.uint32(self._base)
        for start in range(0, flat.size, _CHUNK):
            bits = np.ascontiguousarray(flat[start : start + _CHUNK]).view(np.uint32)
            index = bits & _MAGNITUDE
            index >>= _SHIFT
            np.maximum(index, base, out=index)
            index -= base
            if is_signed:
                index += (bits >> _SIGN) * np.uint32(_BINS)
            found = np.bincount(index.view(np.int32))
            if weight != 1:
                found *= weight
            self._put("+", found[:_BINS])
            self._put("-", found[_BINS:])

    def _put(self, side: str, found: Counts) -> None:
        if found.size:
            if side not in self.sides:
                self.sides[side] = np.zeros(_BINS, np.int64)
            self.sides[side][: found.size] += found

    def _grow(self, peak: float) -> None:
        """Let the bins reach up to `peak`: those that fall below the lowest are added to it."""
        needed = int(np.float32(abs(peak)).view(np.uint32) >> np.uint32(23))
        shift = (needed - self.top) << _BITS
        if shift <= 0:
            return
        self.top = needed
        for side, counts in self.sides.items():
            moved = np.zeros_like(counts)
            kept = max(_BINS - shift, 0)
            moved[:kept] = counts[_BINS - kept :]
            moved[0] += counts[: _BINS - kept].sum()
            self.sides[side] = moved


def _step(size: int, shape: tuple[int, ...]) -> int:
    """Return the distance between counted entries: 1, or one that shares no factor with a dimension of `shape`."""
    step = -(-size // COUNTED_ENTRIES)
    while any(gcd(step, dim) > 1 for dim in shape):
        step += 1
    return step
