"""The block-wise grid: a weight [K, N] as codes, with a scale and a zero point for each run of rows in a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Codes = npt.NDArray[np.uint8]

Bits = Literal[4, 8]

PER_CHANNEL = 0
"""The group of a grid with one block a column."""

LEAST_GROUP = 16
"""The shortest block that a group falls back to; a shorter one would cost more in scales than it saves in codes."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the codes of a weight [K, N] may lie: value = (code - zero point) * scale, codes from 0 to `highest`.

    group: rows in a block, PER_CHANNEL for all K. The last block may be shorter.
    symmetric: every zero point is `middle`, and none is stored.
    negative_scales: a scale may be negative, which lets a symmetric block reach its larger side with the extra code.
    """

    bits: Bits = 4
    group: int = 128
    symmetric: bool = False
    negative_scales: bool = False

    @property
    def highest(self) -> int:
        """The greatest code, 15 or 255; the least is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric block, 8 or 128: minus it, a code is int4 or int8."""
        return 1 << (self.bits - 1)

    def length(self, rows: int) -> int:
        """Return the rows of a full block of a weight with `rows` rows."""
        return rows if self.group == PER_CHANNEL else min(self.group, rows)

    def count(self, rows: int) -> int:
        """Return how many blocks a column of `rows` rows has."""
        return -(-rows // self.length(rows)) if rows else 0


@dataclass(frozen=True, slots=True)
class BlockCodes:
    """A quantized weight [K, N], one code a byte. zero_points is None for a symmetric grid."""

    grid: Grid
    codes: Codes  # [K, N]
    scales: Floats  # [blocks, N]
    zero_points: Codes | None  # [blocks, N]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.codes.shape
        return rows, columns


def in_blocks(weight: Floats, grid: Grid) -> Floats:
    """Return the weight [K, N] as [blocks, length, N]; a short last block is filled with its own last row.

    So the filling changes neither the range of a block nor which scale is best for it by much; codes of it are dropped.
    """
    rows, columns = weight.shape
    length, count = grid.length(rows), grid.count(rows)
    missing = count * length - rows
    if missing:
        weight = np.concatenate([weight, np.repeat(weight[-1:], missing, axis=0)])
    return weight.reshape(count, length, columns)


def out_of_blocks(blocks: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return [blocks, length, N] as [K, N], without the filling of a short last block."""
    count, length, columns = blocks.shape
    return blocks.reshape(count * length, columns)[:rows]


def per_row(parameters: npt.NDArray[Any], grid: Grid, rows: int) -> npt.NDArray[Any]:
    """Return scales or zero points [blocks, N] repeated for each row: [K, N]."""
    return np.repeat(parameters, grid.length(rows), axis=0)[:rows] if rows else parameters


def nearest_codes(weight: Floats, scales: Floats, zero_points: Codes | None, grid: Grid) -> Codes:
    """Return the codes [K, N] nearest to the weight on the grid that scales and zero points [blocks, N] span."""
    rows = weight.shape[0]
    step = per_row(scales, grid, rows)
    zero = grid.middle if zero_points is None else per_row(zero_points, grid, rows).astype(np.float32)
    return np.asarray(np.clip(np.rint(weight / step) + zero, 0, grid.highest), np.uint8)


def dequantize(quantized: BlockCodes) -> Floats:
    """Return the weight [K, N] that the codes stand for, in the arithmetic of ONNX's DequantizeLinear."""
    grid, (rows, _) = quantized.grid, quantized.shape
    zeros = quantized.zero_points
    zero = grid.middle if zeros is None else per_row(zeros, grid, rows).astype(np.int16)
    whole = quantized.codes.astype(np.int16) - zero
    return np.asarray(whole.astype(np.float32) * per_row(quantized.scales, grid, rows), np.float32)


def side_by_side(panels: Sequence[BlockCodes]) -> BlockCodes:
    """Return panels of columns [K, N1], [K, N2], ... as one weight [K, N1 + N2 + ...]."""
    first = panels[0]
    if len(panels) == 1:
        return first
    zeros = [panel.zero_points for panel in panels if panel.zero_points is not None]
    return BlockCodes(
        first.grid,
        np.concatenate([panel.codes for panel in panels], axis=1),
        np.concatenate([panel.scales for panel in panels], axis=1),
        np.concatenate(zeros, axis=1) if zeros else None,
    )


def fitting_group(group: int, rows: int) -> int:
    """Return the largest half, quarter, ... of `group` that divides `rows`; PER_CHANNEL where none of 16 or more does.

    Runtimes take whole blocks only, and a filled last block would take part in nothing.
    """
    if group == PER_CHANNEL or group >= rows:
        return PER_CHANNEL
    while group >= LEAST_GROUP:
        if rows % group == 0:
            return group
        group //= 2
    return PER_CHANNEL
