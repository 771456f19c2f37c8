"""What was seen in each channel of an activation, over a stream of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.histogram import FINITE_LIMIT
from passes.quantize.ranges import ChannelRanges

if TYPE_CHECKING:
    import numpy.typing as npt

_CHUNK = 1 << 16


@dataclass(slots=True)
class ChannelStatistics:
    """Running extremes, sum and sum of squares of each channel along one axis; masked entries count as zero.

    Sums are taken in float32 over pieces that fit the processor's cache, and added up in float64.
    columns: low, high, total and squares, [4, channels]; None before the first array.
    """

    axis: int
    columns: npt.NDArray[np.float64] | None = field(default=None)
    count: int = 0

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count `values`, whose size along `axis` is the same in every call."""
        if values.size == 0:
            return
        axis = self.axis % values.ndim
        channels = values.shape[axis]
        before, after = math.prod(values.shape[:axis]), math.prod(values.shape[axis + 1 :])
        if self.columns is None:
            self.columns = np.zeros((4, channels))
            self.columns[0], self.columns[1] = np.inf, -np.inf
        floats = np.ascontiguousarray(values, dtype=np.float32)
        if after == 1:
            rows = floats.reshape(before, channels)
            step = max(1, _CHUNK // channels)
            for start in range(0, before, step):
                self._add(rows[start : start + step], slice(None), reduced=0)
        else:
            step = max(1, _CHUNK // after)
            for image in floats.reshape(before, channels, after):
                for start in range(0, channels, step):
                    part = slice(start, start + step)
                    self._add(image[part], part, reduced=1)
        self.count += before * after

    def _add(self, block: npt.NDArray[np.float32], part: slice, *, reduced: int) -> None:
        """Count a block [entries, channels] or [channels, entries] of the channels `part`."""
        assert self.columns is not None
        low, high = block.min(axis=reduced), block.max(axis=reduced)
        if not max(-low.min(), high.max()) <= FINITE_LIMIT or not min(low.min(), high.min()) >= -FINITE_LIMIT:
            block = np.where(np.isfinite(block) & (np.abs(block) <= FINITE_LIMIT), block, np.float32(0))
            low, high = block.min(axis=reduced), block.max(axis=reduced)
        columns = self.columns[:, part]
        np.minimum(columns[0], low, out=columns[0])
        np.maximum(columns[1], high, out=columns[1])
        columns[2] += np.ones(len(block), np.float32) @ block if reduced == 0 else block.sum(axis=1)
        columns[3] += np.einsum("rc,rc->c" if reduced == 0 else "cr,cr->c", block, block)

    def ranges(self) -> ChannelRanges | None:
        """Return what was seen by channel; None when nothing was."""
        if self.columns is None:
            return None
        low, high, total, squares = self.columns
        columns = (low, high, total / self.count, squares / self.count)
        low, high, mean, square = (tuple(float(value) for value in column) for column in columns)
        return ChannelRanges(low, high, mean, square, self.count)
