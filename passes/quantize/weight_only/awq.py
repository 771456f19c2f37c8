"""Input channels scaled so that those which matter most are rounded most finely, and ranges clipped by their effect.

After Ji Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023
(arXiv 2306.00978): row k of the weight is multiplied, and its input's channel k divided, by a power of the channel's
mean magnitude. The power is searched for, and so is how far the range of each block is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.weight_only.blocks import BlockCodes, Grid, dequantize, in_blocks, nearest_codes
from passes.quantize.weight_only.rtn import LEAST_SCALE, best_parameters

if TYPE_CHECKING:
    from passes.quantize.weight_only.blocks import Codes, Floats
    from passes.quantize.weight_only.methods import Quantizer
    from passes.quantize.weight_only.statistics import InputStatistics

LEAST_GAIN = 1.02
"""How many times smaller the error must be for the channels to be scaled."""

_STRENGTHS = np.linspace(0.0, 1.0, 11, dtype=np.float32)
_COLUMNS = 256
"""So many columns of a weight stand for all of it in the search for the factors."""

_LEAST_FACTOR = np.float32(1e-4)
_CLIPS = np.linspace(1.0, 0.5, 11, dtype=np.float32)
_BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True, slots=True)
class ChannelFactors:
    """Divide the input's channels by `factors` [K], multiply the weights' rows; the error falls by `gain` times."""

    factors: Floats
    gain: float


def start_awq(grid: Grid, statistics: InputStatistics | None) -> Quantizer:
    """Return the quantizer that clips each block for the least error of its part of the product."""
    assert statistics is not None, "the table says that awq needs samples"
    matrix = statistics.matrix

    def quantizer(weight: Floats) -> BlockCodes:
        scales, zeros = clipped_parameters(weight, grid, matrix)
        return BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)

    return quantizer


def channel_factors(weights: Sequence[Floats], grid: Grid, statistics: InputStatistics) -> ChannelFactors:
    """Return the factors for all `weights` [K, N] that read one input.

    They are the best of a search over powers of the input's magnitude, 0 (no scaling) among them.
    """
    samples = [_sampled(weight) for weight in weights]
    magnitude = statistics.magnitude
    base = np.maximum(magnitude / max(float(magnitude.max()), 1e-30), _LEAST_FACTOR)
    plain, best, chosen = 0.0, np.inf, np.ones_like(base)
    for strength in _STRENGTHS:
        factors = base**strength
        factors = (factors / np.sqrt(factors.max() * factors.min())).astype(np.float32)
        error = sum(_error(sample, factors, grid, statistics.matrix) for sample in samples)
        if strength == 0:
            plain = error
        if error < best:
            best, chosen = error, factors
    return ChannelFactors(chosen, plain / max(best, 1e-30))


def clipped_parameters(weight: Floats, grid: Grid, matrix: Floats) -> tuple[Floats, Codes | None]:
    """Return scales and zero points [blocks, N] of the clipped ranges with the least error of each block's product."""
    blocks = in_blocks(weight, grid)  # [B, L, N]
    count, length, columns = blocks.shape
    own = diagonal_blocks(matrix, grid)  # [B, L, L]
    scales = np.empty((count, columns), np.float32)
    zeros = np.empty_like(scales)
    step = max(1, _BYTES_AT_ONCE // (4 * count * length))
    for start in range(0, columns, step):
        part = slice(start, start + step)
        scales[:, part], zeros[:, part] = _clip_search(np.ascontiguousarray(blocks[:, :, part]), own, grid)
    return scales, None if grid.symmetric else zeros.astype(np.uint8)


def diagonal_blocks(matrix: Floats, grid: Grid) -> Floats:
    """Return the blocks [B, L, L] on the diagonal of [K, K], the last one filled up with zeros."""
    rows = matrix.shape[0]
    length, count = grid.length(rows), grid.count(rows)
    own = np.zeros((count, length, length), np.float32)
    for index in range(count):
        part = matrix[index * length : (index + 1) * length, index * length : (index + 1) * length]
        own[index, : part.shape[0], : part.shape[1]] = part
    return own


def _clip_search(blocks: Floats, own: Floats, grid: Grid) -> tuple[Floats, Floats]:
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    scales = np.full(low.shape, LEAST_SCALE, np.float32)
    zeros = np.full(low.shape, grid.middle, np.float32)
    best = np.full(low.shape, np.inf, np.float32)
    for clip in _CLIPS:
        if grid.symmetric:
            scale = np.maximum(np.maximum(high, -low) * clip / np.float32(grid.middle - 1), LEAST_SCALE)
            zero = zeros
        else:
            scale = np.maximum((high - low) * clip / np.float32(grid.highest), LEAST_SCALE)
            zero = np.clip(np.rint(-low * clip / scale), 0, grid.highest)
        q = np.clip(np.rint(blocks / scale[:, None]) + zero[:, None], 0, grid.highest) - zero[:, None]
        response = own @ q  # [B, L, N]
        # The error as a function of the scale alone: its best value, then the error there.
        along, power = np.einsum("bln,bln->bn", response, blocks), np.einsum("bln,bln->bn", response, q)
        ratio = np.divide(along, power, out=scale.copy(), where=power > 0)
        scale = np.where(ratio > LEAST_SCALE, ratio, scale)
        error = power * scale * scale - 2 * along * scale  # up to what the weights alone decide
        better = error < best
        scales[better], zeros[better] = scale[better], zero[better]
        best = np.minimum(best, error)
    return scales, zeros


def _error(weight: Floats, factors: Floats, grid: Grid, matrix: Floats) -> float:
    """Return the mean squared error of the product with the rounded weight [K, N] under these factors."""
    scaled = weight * factors[:, None]
    scales, zeros = best_parameters(scaled, grid)
    rounded = dequantize(BlockCodes(grid, nearest_codes(scaled, scales, zeros, grid), scales, zeros))
    off = rounded / factors[:, None] - weight
    return float(np.einsum("kn,kn->", off, matrix @ off))


def _sampled(weight: Floats) -> Floats:
    """Return at most _COLUMNS columns, spread over the weight."""
    step = max(1, weight.shape[1] // _COLUMNS)
    return np.ascontiguousarray(weight[:, ::step][:, :_COLUMNS], np.float32)
