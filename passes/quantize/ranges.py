"""The calibrated range of one activation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """The interval, in real units, that a quantized activation shall cover; `low` <= `high`, both finite.

    observed_low and observed_high are the extremes that were seen, before any clipping.
    """

    low: float
    high: float
    observed_low: float
    observed_high: float
