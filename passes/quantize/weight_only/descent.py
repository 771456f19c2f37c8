"""Coordinate descent on the error of a product: over the codes, scales and zero points of one block after another.

After Kayhan Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023 (arXiv 2309.01885),
who take the codes in turn; here scales and zero points are coordinates as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.weight_only.blocks import BlockCodes, Grid

if TYPE_CHECKING:
    from passes.quantize.weight_only.blocks import Floats

_ROWS_AT_ONCE = 32

_LEAST_RATIO, _MOST_RATIO = np.float32(0.7), np.float32(1.4)
"""A scale moves by no more than this in one step."""


def descend(weight: Floats, start: BlockCodes, matrix: Floats, *, sweeps: int) -> BlockCodes:
    """Return better codes, scales and zero points after `sweeps` rounds; no step raises trace(E^T matrix E).

    `matrix` [K, K] is positive definite, E [K, N] is the weight's error. Each round takes every block in turn: the
    scale of least error for its codes, the zero point a step up or down where that helps, then each code, given all
    others. A last round moves the scales alone.
    """
    grid, rows = start.grid, weight.shape[0]
    length = grid.length(rows)
    codes = start.codes.astype(np.float32)
    scales = start.scales.copy()
    zeros = np.full_like(scales, grid.middle) if start.zero_points is None else start.zero_points.astype(np.float32)
    blocks = [
        _Block(grid, codes[part], scales[index], zeros[index], matrix[part, part])
        for index, part in enumerate(slice(first, min(first + length, rows)) for first in range(0, rows, length))
    ]
    slopes = np.empty_like(weight, np.float32)
    for sweep in range(sweeps + 1):
        # Computed anew in each round, so that the rounding errors of the updates do not add up.
        error = weight - np.concatenate([block.reals() for block in blocks])
        np.matmul(matrix, error, out=slopes)  # [K, N]
        for index, block in enumerate(blocks):
            part = slice(index * length, index * length + block.codes.shape[0])
            before = block.reals()
            block.move(slopes[part].copy(), scale_only=sweep == sweeps)
            slopes -= matrix[:, part] @ (block.reals() - before)
    found = None if start.zero_points is None else zeros.astype(np.uint8)
    return BlockCodes(grid, codes.astype(np.uint8), scales, found)


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of rows, views of the weight's arrays; `own` [L, L] are the moments of its rows."""

    grid: Grid
    codes: Floats  # [L, N]
    scale: Floats  # [N]
    zero: Floats  # [N]
    own: Floats

    def reals(self) -> Floats:
        """Return the weights that the codes stand for."""
        return (self.codes - self.zero) * self.scale

    def move(self, slopes: Floats, *, scale_only: bool) -> None:
        """Take one step in each coordinate; `slopes` [L, N] is the matrix times the error, and is used up."""
        self._move_scale(slopes)
        if scale_only:
            return
        if not self.grid.symmetric:
            self._move_zero(slopes)
        self._move_codes(slopes)

    def _move_scale(self, slopes: Floats) -> None:
        offsets = self.codes - self.zero
        response = self.own @ offsets  # [L, N]
        slope = np.einsum("ln,ln->n", offsets, slopes)
        curvature = np.einsum("ln,ln->n", offsets, response)
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        near, far = self.scale * _LEAST_RATIO, self.scale * _MOST_RATIO
        moved = np.clip(self.scale + step, np.minimum(near, far), np.maximum(near, far))
        slopes -= response * (moved - self.scale)
        self.scale[:] = moved

    def _move_zero(self, slopes: Floats) -> None:
        response = self.own.sum(axis=1)  # [L]: every entry of the block moves by one scale
        curvature = response.sum() * self.scale
        slope = -slopes.sum(axis=0)
        wanted = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature != 0)
        moved = np.clip(self.zero + np.clip(np.rint(wanted), -1, 1), 0, self.grid.highest)
        slopes += response[:, None] * ((moved - self.zero) * self.scale)
        self.zero[:] = moved

    def _move_codes(self, slopes: Floats) -> None:
        codes, own = self.codes, self.own
        for start in range(0, codes.shape[0], _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, codes.shape[0])
            changes = np.empty((stop - start, codes.shape[1]), np.float32)
            for row in range(start, stop):
                wanted = codes[row] + slopes[row] / (own[row, row] * self.scale)
                moved = np.clip(np.rint(wanted), 0, self.grid.highest)
                change = (moved - codes[row]) * self.scale
                slopes[row + 1 : stop] -= np.outer(own[row + 1 : stop, row], change)
                codes[row], changes[row - start] = moved, change
            slopes[stop:] -= own[stop:, start:stop] @ changes
