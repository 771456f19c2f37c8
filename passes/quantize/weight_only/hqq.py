"""Half-quadratic quantization: scales and zero points for many small errors and few large ones, without data.

After Hicham Badri and Appu Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.weight_only.blocks import BlockCodes, Grid, in_blocks, nearest_codes
from passes.quantize.weight_only.rtn import LEAST_SCALE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from passes.quantize.weight_only.blocks import Codes, Floats
    from passes.quantize.weight_only.methods import Quantizer
    from passes.quantize.weight_only.statistics import InputStatistics

NORM = 0.7
"""The p of the l_p norm that is minimised: below 1, one large error is cheaper than many small ones."""

_SHRINKS = (1.0, 0.85, 0.7)
"""Ranges to start from, as a share of the covering one: each descent ends in the nearest minimum."""

_ITERATIONS = 6
_FIRST_PENALTY, _PENALTY_GROWTH = 4.0, 1.5

_ELEMENTS_AT_ONCE = 1 << 17
"""So many that the arrays of one search stay in a core's cache."""


def start_hqq(grid: Grid, statistics: InputStatistics | None) -> Quantizer:
    """Return the quantizer whose scales and zero points give the least sum of |error| ** NORM; no data is used."""

    def quantizer(weight: Floats) -> BlockCodes:
        scales, zeros = sparse_parameters(weight, grid)
        return BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)

    return quantizer


def sparse_parameters(weight: Floats, grid: Grid, *, norm: float = NORM) -> tuple[Floats, Codes | None]:
    """Return scales and zero points [blocks, N] for the least sum of |error| ** norm; zero points None if symmetric.

    The error is split into a sparse part and a rest. In turn the sparse part is shrunk out of the present error by the
    generalised soft threshold, and scale and zero point are fitted to what remains by least squares. The paper fits a
    real zero point alone; here it is a whole number, as kernels want it, so the scale is fitted as well.
    """
    blocks = in_blocks(weight, grid)  # [B, L, N]
    count, length, columns = blocks.shape
    scales = np.empty((count, columns), np.float32)
    zeros = np.empty_like(scales)
    step = max(1, _ELEMENTS_AT_ONCE // max(1, count * length))
    for start in range(0, columns, step):
        part = slice(start, start + step)
        scales[:, part], zeros[:, part] = _minimise(np.ascontiguousarray(blocks[:, :, part]), grid, norm)
    return scales, None if grid.symmetric else zeros.astype(np.uint8)


def _minimise(blocks: Floats, grid: Grid, norm: float) -> tuple[Floats, Floats]:
    scales, zeros = _covering(blocks, grid)
    covering, middle = scales.copy(), zeros.copy()
    best = _loss(blocks, scales, zeros, grid, norm)
    for shrink in _SHRINKS:
        for scale, zero in _descent(blocks, covering * np.float32(shrink), middle, grid, norm):
            loss = _loss(blocks, scale, zero, grid, norm)
            better = loss < best
            scales[better], zeros[better] = scale[better], zero[better]
            best = np.minimum(best, loss)
    return scales, zeros


def _covering(blocks: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """Return the scales and zero points [B, N] that reach every entry."""
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    if grid.symmetric:
        scale = np.maximum(np.maximum(high, -low) / np.float32(grid.middle - 1), LEAST_SCALE)
        return scale, np.full_like(scale, grid.middle)
    scale = np.maximum((high - low) / np.float32(grid.highest), LEAST_SCALE)
    return scale, np.clip(np.rint(-low / scale), 0, grid.highest)


def _descent(blocks: Floats, scale: Floats, zero: Floats, grid: Grid, norm: float) -> Iterator[tuple[Floats, Floats]]:
    """Yield the scales and whole zero points of each iteration."""
    penalty = _FIRST_PENALTY
    for _ in range(_ITERATIONS):
        steps = blocks / scale[:, None]
        codes = np.clip(np.rint(steps + zero[:, None]), 0, grid.highest)
        kept = steps - _shrunk(steps - codes + zero[:, None], penalty, norm)  # what the codes shall stand for
        if not grid.symmetric:
            zero = np.clip((codes - kept).mean(axis=1), 0, grid.highest)
        offsets = codes - zero[:, None]
        along, power = np.einsum("bln,bln->bn", offsets, kept), np.einsum("bln,bln->bn", offsets, offsets)
        ratio = np.divide(along, power, out=np.ones_like(along), where=power > 0)
        scale = np.maximum(scale * ratio, LEAST_SCALE)
        penalty *= _PENALTY_GROWTH
        yield scale, np.rint(zero)


def _shrunk(errors: Floats, penalty: float, norm: float) -> Floats:
    """Return the proximal step of the l_p norm: that part of each error, in steps, which is best left as it is."""
    size = np.abs(errors)
    threshold = np.maximum(size, np.float32(1e-4)) ** np.float32(norm - 1) / np.float32(penalty)
    return np.asarray(np.copysign(np.maximum(size - threshold, 0), errors), np.float32)


def _loss(blocks: Floats, scales: Floats, zeros: Floats, grid: Grid, norm: float) -> Floats:
    codes = np.clip(np.rint(blocks / scales[:, None] + zeros[:, None]), 0, grid.highest)
    off = np.abs((codes - zeros[:, None]) * scales[:, None] - blocks)
    return np.asarray((np.maximum(off, np.float32(1e-12)) ** np.float32(norm)).sum(axis=1), np.float32)
