"""Weights to fp8 e4m3 codes and scales (Micikevicius et al. 2022, arXiv 2209.05433)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from passes.quantize.scheme import LEAST_SCALE

if TYPE_CHECKING:
    import numpy.typing as npt

GREATEST = 448.0
"""The greatest number of e4m3; it has no infinity."""

_STRETCHES = 2.0 ** (np.arange(8) / 8)
"""Candidate scales over the one that puts the greatest weight at 448. A factor of two moves nothing but the smallest
numbers, so what there is to choose lies between two powers of it; smaller scales would clip."""

_CHANNELS_AT_ONCE_BYTES = 32 << 20


def fp8_weight(
    weight: npt.NDArray[np.floating], *, axis: int | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Return float8_e4m3fn codes and the scale(s) with weight = codes * scale, for the least squared error.

    `axis` runs over the channels, each with a scale of its own; None is one scale for all.
    """
    import ml_dtypes

    if axis is None:
        codes, scale = _rounded(np.asarray(weight, np.float32).reshape(1, -1))
        return codes.reshape(weight.shape), np.asarray(scale[0], np.float32)
    axis %= weight.ndim
    rows = np.moveaxis(weight, axis, 0)
    scale = np.empty(rows.shape[0], np.float32)
    codes = np.empty(weight.shape, ml_dtypes.float8_e4m3fn)
    moved = np.moveaxis(codes, axis, 0)
    step = max(1, _CHANNELS_AT_ONCE_BYTES // max(1, 4 * rows[0].size))
    for start in range(0, rows.shape[0], step):
        part = np.ascontiguousarray(rows[start : start + step], dtype=np.float32)
        found, chosen = _rounded(part.reshape(part.shape[0], -1))
        scale[start : start + step] = chosen
        moved[start : start + step] = found.reshape(part.shape)
    return codes, scale


def _rounded(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Return the codes of [C, n] and one scale a row: of the candidates, the one with the least squared error."""
    import ml_dtypes

    peak = np.abs(rows).max(axis=1, initial=0.0)
    cover = np.maximum(peak / np.float32(GREATEST), np.float32(LEAST_SCALE)).astype(np.float32)
    best = cover.copy()
    least = np.full(rows.shape[0], np.inf)
    for stretch in _STRETCHES:
        scale = (cover * np.float32(stretch)).astype(np.float32)
        real = _codes(rows, scale).astype(np.float32) * scale[:, None]
        error = np.square(real - rows).sum(axis=1, dtype=np.float64)
        better = error < least
        best[better], least[better] = scale[better], error[better]
    codes = _codes(rows, best)
    assert codes.dtype == ml_dtypes.float8_e4m3fn
    return codes, best


def _codes(rows: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    import ml_dtypes

    codes: npt.NDArray[Any] = np.clip(rows / scale[:, None], -GREATEST, GREATEST).astype(ml_dtypes.float8_e4m3fn)
    return codes
