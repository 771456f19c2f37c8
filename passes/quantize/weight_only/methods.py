"""The table of methods that choose codes, scales and zero points of a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.quantize.weight_only.awq import start_awq
from passes.quantize.weight_only.blocks import BlockCodes, Grid
from passes.quantize.weight_only.gptq import start_gptq
from passes.quantize.weight_only.hqq import start_hqq
from passes.quantize.weight_only.rtn import start_rtn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from passes.quantize.weight_only.statistics import InputStatistics

Quantizer = Callable[["npt.NDArray[np.float32]"], BlockCodes]
"""Quantizes a panel [K, n] of a weight's columns. Each column is on its own, so large weights come in panels."""

Starter = Callable[[Grid, "InputStatistics | None"], Quantizer]
"""Prepares what all columns of one weight share (a Hessian's factors, for one) and returns the quantizer of panels."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to quantize.

    needs_samples: it must be given the statistics of the product's input.
    scales_channels: inputs are divided by channel first, and rows of weights multiplied, where that is legal.
    propagates: the statistics are those of the graph with what is already rounded, and tell the drift.
    """

    start: Starter
    needs_samples: bool
    summary: str
    scales_channels: bool = False
    propagates: bool = False


METHODS: Mapping[str, Method] = {
    "rtn": Method(start_rtn, False, "round to the nearest code of the scale with the least squared error"),
    "hqq": Method(start_hqq, False, "many small errors and few large ones: for weights with heavy tails"),
    "awq": Method(
        start_awq, True, "input channels scaled and ranges clipped by their effect on the product", scales_channels=True
    ),
    "gptq": Method(start_gptq, True, "codes that make up for each other's rounding", propagates=True),
    "awq-gptq": Method(
        start_gptq, True, "channels scaled as by awq, codes as by gptq", scales_channels=True, propagates=True
    ),
}
"""Method by the name that the option `method` takes."""
