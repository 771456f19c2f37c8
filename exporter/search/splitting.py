"""The calibration data in two parts: one that ranges are read from, one that candidates are judged on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.errors import UsageError

if TYPE_CHECKING:
    from exporter.samples import Samples
    from targets.base import Array

MOST_VALIDATION = 64
"""Samples that a candidate is judged on at most; a sample is a batch."""


@dataclass(frozen=True, slots=True)
class Part:
    """Every second sample, from `first` on, `most` of them at most (None: all). Iterating reads them anew."""

    samples: Samples
    first: int
    most: int | None = None

    def __iter__(self) -> Iterator[dict[str, Array]]:
        taken = 0
        for index, feeds in enumerate(self.samples):
            if self.most is not None and taken >= self.most:
                return
            if index % 2 == self.first:
                taken += 1
                yield feeds


def split(samples: Samples) -> tuple[Part, Part]:
    """Return the calibration part and the validation part. Raises UsageError for a single sample.

    Neighbours go to different parts, so that data that changes along the way is in both.
    """
    if sum(1 for _ in zip(samples, range(2), strict=False)) < 2:
        raise UsageError(
            f"{samples.location} holds one sample, and a search needs some to calibrate on and others to judge by.",
            hint="Give several batches with --calibration: 8 at the least, 50 to 500 inputs together.",
        )
    return Part(samples, 0), Part(samples, 1, MOST_VALIDATION)
