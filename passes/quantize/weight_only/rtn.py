"""Round to nearest, each block on the scale and zero point of the least squared error found by a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.quantize.weight_only.blocks import BlockCodes, Grid, in_blocks, nearest_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from passes.quantize.weight_only.blocks import Codes, Floats
    from passes.quantize.weight_only.methods import Quantizer
    from passes.quantize.weight_only.statistics import InputStatistics

_SHRINKS: dict[int, tuple[float, ...]] = {
    4: tuple(np.linspace(1.0, 0.6, 21).tolist()),
    8: tuple(np.linspace(1.0, 0.9, 5).tolist()),
}
"""Candidate ranges as a share of the one that covers the block; 8 bits gain little from clipping."""

LEAST_SCALE = np.float32(1e-12)
"""The scale of a block of zeros."""


def start_rtn(grid: Grid, statistics: InputStatistics | None) -> Quantizer:
    """Return the quantizer that needs no data. With `statistics`, a row's errors count by the mean square of its input.

    The scale is searched over shrunken ranges, as clipping a few large weights lets all others round finer, then fitted
    to its codes by least squares and the codes rounded again, for as long as that lowers the error.
    """
    importance = None if statistics is None else np.diagonal(statistics.matrix)

    def quantizer(weight: Floats) -> BlockCodes:
        scales, zeros = best_parameters(weight, grid, importance=importance)
        return BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)

    return quantizer


def best_parameters(weight: Floats, grid: Grid, *, importance: Floats | None = None) -> tuple[Floats, Codes | None]:
    """Return scales and zero points [blocks, N] with the least squared error found; zero points None if symmetric.

    importance: a weight of each row's error [K].
    """
    blocks = in_blocks(weight, grid)  # [B, L, N]
    weighing = None
    if importance is not None:
        weighing = in_blocks(np.asarray(importance, np.float32)[:, None], grid)  # [B, L, 1]
    low = np.minimum(blocks.min(axis=1), 0)  # [B, N]; 0 is always a code's value
    high = np.maximum(blocks.max(axis=1), 0)
    best = _Best.start(blocks, weighing, grid)
    for shrink in _SHRINKS[grid.bits]:
        for scale, zero in _candidates(low * np.float32(shrink), high * np.float32(shrink), grid):
            best.offer(scale, zero)
    best.refine()
    return best.scale, None if grid.symmetric else best.zero.astype(np.uint8)


def _candidates(low: Floats, high: Floats, grid: Grid) -> Iterator[tuple[Floats, Floats]]:
    """Yield scales and zero points whose codes cover the range; both signs of scale where the grid allows them."""
    if not grid.symmetric:
        scale = _positive((high - low) / np.float32(grid.highest))
        yield scale, np.clip(np.rint(-low / scale), 0, grid.highest)
        return
    middle = np.full(low.shape, grid.middle, np.float32)
    yield _positive(np.maximum(high, -low) / np.float32(grid.middle - 1)), middle
    yield _positive(np.maximum(high / np.float32(grid.middle - 1), -low / np.float32(grid.middle))), middle
    if grid.negative_scales:
        yield -_positive(np.maximum(-low / np.float32(grid.middle - 1), high / np.float32(grid.middle))), middle


def _positive(scale: npt.NDArray[Any]) -> Floats:
    return np.asarray(np.maximum(scale, LEAST_SCALE), np.float32)


@dataclass(slots=True)
class _Best:
    """The parameters of each block with the least error so far."""

    blocks: Floats  # [B, L, N]
    weighing: Floats | None
    grid: Grid
    scale: Floats  # [B, N]
    zero: Floats  # [B, N]
    gain: Floats  # [B, N]: the root of how much of the block's squared sum the codes explain

    @classmethod
    def start(cls, blocks: Floats, weighing: Floats | None, grid: Grid) -> _Best:
        count, _, columns = blocks.shape
        scale = np.full((count, columns), LEAST_SCALE, np.float32)
        zero = np.full((count, columns), grid.middle, np.float32)
        return cls(blocks, weighing, grid, scale, zero, np.full((count, columns), -np.inf, np.float32))

    def offer(self, scale: Floats, zero: Floats) -> None:
        """Take these parameters where the codes that they give, with the scale refitted to them, explain more.

        With q = code - zero point, the error sum((w - s q)^2) is least at s = sum(q w) / sum(q q), where it is
        sum(w w) - sum(q w)^2 / sum(q q): so the last term alone tells which candidate is best.
        """
        q = self._codes(scale, zero)
        weighted = q if self.weighing is None else q * self.weighing
        along = np.einsum("bln,bln->bn", weighted, self.blocks)  # sum(q w)
        power = np.einsum("bln,bln->bn", weighted, q)  # sum(q q)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(power > 0, np.abs(along) / np.sqrt(power), 0)
            fitted = np.where(power > 0, along / power, scale)
        allowed = np.abs(fitted) >= LEAST_SCALE
        if not self.grid.negative_scales:
            allowed &= fitted > 0
        better = (gain > self.gain) & allowed
        np.copyto(self.scale, fitted, where=better)
        np.copyto(self.zero, zero, where=better)
        np.copyto(self.gain, gain, where=better)

    def refine(self, rounds: int = 2) -> None:
        """Round again on the best scales, fit again, and try the neighbouring zero points."""
        for _ in range(rounds):
            scale = self.scale.copy()
            self.offer(scale, self.zero.copy())
            if not self.grid.symmetric:
                for step in (-1.0, 1.0):
                    self.offer(scale, np.clip(self.zero + np.float32(step), 0, self.grid.highest))

    def _codes(self, scale: Floats, zero: Floats) -> Floats:
        """Return code - zero point, as float [B, L, N]."""
        q = self.blocks * (1 / scale)[:, None]
        np.rint(q, out=q)
        lowest = -zero[:, None]
        np.clip(q, lowest, lowest + self.grid.highest, out=q)
        return np.asarray(q, np.float32)
