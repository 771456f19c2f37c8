"""What each precision asks of a build: which passes write it into a graph, and whether they need calibrated ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Making:
    """How a graph gets its precision.

    passes: their text; "" where nothing changes. needs_calibration: they read ranges, so samples must be given.
    takes_calibration: they read ranges where there are samples, and do without.
    takes_samples: they may read second moments of the samples, computed when a method asks for them.
    verb: how reports call the stage.
    """

    passes: str
    needs_calibration: bool = False
    takes_calibration: bool = False
    takes_samples: bool = False
    verb: str = "convert"


MAKINGS: Mapping[str, Making] = MappingProxyType(
    {
        "fp32": Making(""),
        "fp16": Making("convert-fp16", takes_calibration=True),
        "bf16": Making("convert-bf16", takes_calibration=True),
        "int8-weight-only": Making("quantize-weights{bits=8}", takes_samples=True, verb="quantize"),
        "int4-weight-only": Making("quantize-weights", takes_samples=True, verb="quantize"),
        "int8": Making("quantize-static", needs_calibration=True, verb="quantize"),
        "int8-dynamic": Making("quantize-dynamic", takes_calibration=True, verb="quantize"),
        "fp8": Making("quantize-fp8", needs_calibration=True, verb="quantize"),
    }
)
"""One line for each of targets.base.PRECISIONS. The recipe's `quantize` replaces the text of "int8", and its `weights`
that of the weight-only ones but for their bits."""

AUTO: Final = "auto"
"""What asks for the fastest mixture of precisions that meets the gates."""


def need_calibration(precisions: Iterable[str]) -> bool:
    """Return whether any of the precisions is scaled by calibrated ranges, or chosen by what they give."""
    return any(precision == AUTO or MAKINGS[precision].needs_calibration for precision in precisions)


def use_calibration(precisions: Iterable[str]) -> bool:
    """Return whether calibrated ranges would be of use to any of the precisions."""
    return any(precision == AUTO or _is_better_calibrated(MAKINGS[precision]) for precision in precisions)


def use_samples(precisions: Iterable[str]) -> bool:
    """Return whether calibration samples would be of use to any of the precisions, by their ranges or otherwise."""
    known = list(precisions)
    return use_calibration(known) or any(MAKINGS[precision].takes_samples for precision in known)


def _is_better_calibrated(making: Making) -> bool:
    return making.needs_calibration or making.takes_calibration
