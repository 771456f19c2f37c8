"""Outlier channels moved from activations into weights, where the estimated error falls (SmoothQuant, 2211.10438).

A channel that is fifty times larger than the rest dictates the scale of its whole activation. Dividing each input
channel by a factor, and multiplying the weight's row by it, changes nothing in real numbers and evens out the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.ranges import ActivationRange

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

LEAST_GAIN = 1.5
"""How many times smaller the estimated error must be for the extra multiplication to be worth it."""

LEAST_ROWS_A_CHANNEL = 2
"""With fewer rows seen than this times the channels, a channel's extremes say little about data to come."""

_PEAK_FLOOR = 0.25
"""A channel counts as at least this share of the median peak: what was quiet so far may not stay so."""

_STRENGTHS = np.linspace(0.2, 1.0, 9)
_LEAST = 1e-6
_NORMAL_MEDIAN = 0.6745
"""The median magnitude of a normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Divide the activation's channels by `factors`, multiply the weights' rows; `covered` is the range after that."""

    factors: npt.NDArray[np.float32]
    covered: ActivationRange
    gain: float


def best_smoothing(
    covered: ActivationRange, weights: Sequence[npt.NDArray[np.floating]], *, symmetric: bool
) -> Smoothing | None:
    """Return the factors that shrink the estimated error of all `weights` [K, N] by LEAST_GAIN, or None.

    The error of a product is estimated from both roundings, taken as independent noise of step**2 / 12: the
    activation's, amplified by the weights, and the weights', amplified by the activation.
    """
    channels = covered.channels
    if channels is None or not weights or any(weight.shape[0] != len(channels.low) for weight in weights):
        return None
    if channels.rows < LEAST_ROWS_A_CHANNEL * len(channels.low):
        return None
    low, high = np.minimum(channels.low, 0.0), np.maximum(channels.high, 0.0)
    squares = np.asarray(channels.mean_square)
    peaks = np.maximum(np.maximum(-low, high), _LEAST)
    peaks = np.maximum(peaks, _PEAK_FLOOR * np.median(peaks))
    rows = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), _LEAST)
    span = 2 * covered.symmetric_peak if symmetric else covered.high - covered.low
    plain = _error(span, squares, weights, np.ones(len(peaks)))
    best: Smoothing | None = None
    for strength in _STRENGTHS:
        factors = peaks**strength / rows ** (1 - strength)
        factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32).astype(np.float64)
        least, most = float((low / factors).min()), float((high / factors).max())
        after = ActivationRange(least, most, least, most)
        span = 2 * after.symmetric_peak if symmetric else most - least
        error = _error(span, squares / factors**2, weights, factors)
        gain = plain / max(error, np.finfo(np.float64).tiny)
        if gain >= LEAST_GAIN and (best is None or gain > best.gain):
            best = Smoothing(factors.astype(np.float32), after, gain)
    return best


def typical_sqnr_db(
    covered: ActivationRange, weight: npt.NDArray[np.floating], result: ActivationRange, *, symmetric: bool
) -> float:
    """Return by how many dB a typical entry of the product would exceed its estimated int8 error; inf when unknown.

    Outliers in the input set the step for all rows alike. Where a normalization follows, a quiet row's error counts as
    much as a loud one's, so the comparison is with the median entry, taken as normally distributed.
    """
    channels = covered.channels
    if channels is None or result.typical == 0 or weight.shape[0] != len(channels.low):
        return float("inf")
    smoothing = best_smoothing(covered, [weight], symmetric=symmetric)
    factors = np.ones(weight.shape[0]) if smoothing is None else smoothing.factors.astype(np.float64)
    after = covered if smoothing is None else smoothing.covered
    span = 2 * after.symmetric_peak if symmetric else after.high - after.low
    error = _error(span, np.asarray(channels.mean_square) / factors**2, [weight], factors) / weight.shape[1]
    power = (result.typical / _NORMAL_MEDIAN) ** 2
    return float(10 * np.log10(power / error)) if error > 0 else float("inf")


def _error(span: float, squares: Array, weights: Sequence[npt.NDArray[np.floating]], factors: Array) -> float:
    """Return the estimated squared error, summed over outputs, of one row of the product."""
    total = 0.0
    activation_noise = (span / 255) ** 2 / 12
    for weight in weights:
        scaled = weight * factors[:, None]
        steps = np.abs(scaled).max(axis=0) / 127
        total += activation_noise * float(np.square(scaled).sum()) + float(squares.sum() * np.square(steps).sum() / 12)
    return total
