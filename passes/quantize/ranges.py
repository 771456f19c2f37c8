"""The calibrated range of one activation, and all of them by value name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from passes.base import Event


@dataclass(frozen=True, slots=True)
class ChannelRanges:
    """What was seen in each channel of an activation that weights multiply: extremes, mean, and mean square.

    rows: from how many entries a channel.

    The channels lie on the last axis of a matrix product's input and on axis 1 of a convolution's.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    mean_square: tuple[float, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """The interval, in real units, that a quantized activation shall cover; `low` <= `high`, both finite.

    observed_low and observed_high are the extremes that were seen, before any clipping.
    magnitude: what a symmetric scale shall cover; None takes the larger of |low| and |high|.
    typical: the median magnitude of the entries that are not zero; 0 when unknown.
    channels: the same by channel, for a value that weights multiply.
    """

    low: float
    high: float
    observed_low: float
    observed_high: float
    magnitude: float | None = None
    channels: ChannelRanges | None = None
    typical: float = 0.0

    @property
    def symmetric_peak(self) -> float:
        """The magnitude that a symmetric scale shall cover."""
        return self.magnitude if self.magnitude is not None else max(abs(self.low), abs(self.high))


def hull(ranges: Sequence[ActivationRange]) -> ActivationRange:
    """Return the range that covers all of `ranges`, which are not empty."""
    if len(ranges) == 1:
        return ranges[0]
    return ActivationRange(
        low=min(seen.low for seen in ranges),
        high=max(seen.high for seen in ranges),
        observed_low=min(seen.observed_low for seen in ranges),
        observed_high=max(seen.observed_high for seen in ranges),
        magnitude=max(seen.symmetric_peak for seen in ranges),
    )


@dataclass(frozen=True, slots=True)
class Ranges(Mapping[str, ActivationRange]):
    """Calibrated ranges by value name; `excluded` lists the float values that got none, and why."""

    values_by_name: Mapping[str, ActivationRange] = field(default_factory=dict)
    excluded: tuple[Event, ...] = ()
    samples: int = 0
    method: str = ""

    def __getitem__(self, name: str) -> ActivationRange:
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)
