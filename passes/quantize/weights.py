"""Weights to int8 codes and scales, one weight at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.scheme import LEAST_SCALE

if TYPE_CHECKING:
    import numpy.typing as npt

_SHRINKS = np.linspace(1.0, 0.7, 13)
"""Candidate scales as a share of the one that covers the largest weight."""

_CHANNELS_AT_ONCE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """real = codes * scale along `axis`; `scale` is a scalar array when `axis` is None. The zero point is 0."""

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    axis: int | None


def quantize_weight(
    weight: npt.NDArray[np.floating],
    *,
    axis: int | None,
    magnitude: int = 127,
    least_scale: npt.NDArray[np.float32] | None = None,
) -> QuantizedWeight:
    """Return symmetric int8 codes of `weight`, each channel's scale chosen for the least squared error.

    `axis` runs over the channels, None is one scale for all. `least_scale` [channels] bounds the scales from below.
    """
    if axis is None:
        scale = _best_scales(weight.reshape(1, -1), magnitude, least_scale)
        return QuantizedWeight(_codes(weight, scale[0], magnitude), np.asarray(scale[0], dtype=np.float32), None)
    axis %= weight.ndim
    rows = np.moveaxis(weight, axis, 0)
    scale = np.empty(rows.shape[0], dtype=np.float32)
    codes = np.empty(weight.shape, dtype=np.int8)
    moved_codes = np.moveaxis(codes, axis, 0)
    step = max(1, _CHANNELS_AT_ONCE_BYTES // max(1, 4 * rows[0].size))
    for start in range(0, rows.shape[0], step):
        part = np.ascontiguousarray(rows[start : start + step], dtype=np.float32)
        least = None if least_scale is None else least_scale[start : start + step]
        chosen = _best_scales(part.reshape(part.shape[0], -1), magnitude, least)
        scale[start : start + step] = chosen
        moved_codes[start : start + step] = _codes(part, chosen.reshape(-1, *[1] * (part.ndim - 1)), magnitude)
    return QuantizedWeight(codes, scale, axis)


def dequantize_weight(quantized: QuantizedWeight) -> npt.NDArray[np.float32]:
    """Return the weight that the codes stand for."""
    scale = quantized.scale
    if quantized.axis is not None:
        shape = [1] * quantized.codes.ndim
        shape[quantized.axis] = -1
        scale = scale.reshape(shape)
    return np.asarray(quantized.codes.astype(np.float32) * scale, np.float32)


def _codes(
    weight: npt.NDArray[np.floating], scale: npt.NDArray[np.float32] | np.float32, magnitude: int
) -> npt.NDArray[np.int8]:
    return np.asarray(np.clip(np.rint(weight / scale), -magnitude, magnitude), np.int8)


def _best_scales(
    rows: npt.NDArray[np.floating], magnitude: int, least_scale: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """Return one scale a row: of the candidates below the covering scale, the one with the least squared error."""
    peak = np.abs(rows).max(axis=1, initial=0.0).astype(np.float32)
    cover = np.maximum(peak / magnitude, np.float32(LEAST_SCALE))
    if least_scale is not None:
        cover = np.maximum(cover, least_scale)
    best, best_error = cover.copy(), np.full(rows.shape[0], np.inf, dtype=np.float64)
    for shrink in _SHRINKS:
        scale = (cover * np.float32(shrink)).astype(np.float32)
        if least_scale is not None:
            scale = np.maximum(scale, least_scale)
        codes = np.clip(np.rint(rows / scale[:, None]), -magnitude, magnitude)
        error = np.square(codes * scale[:, None] - rows).sum(axis=1, dtype=np.float64)
        better = error < best_error
        best[better], best_error[better] = scale[better], error[better]
    return np.asarray(best, np.float32)
