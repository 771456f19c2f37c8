"""The int8 scheme of one graph: what the runtime takes, narrowed by what the user asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from passes.errors import UsageError
from passes.quantize.ranges import ActivationRange

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Context
    from passes.capabilities import ActivationType, Capabilities, QuantizationSupport

Granularity = Literal["channel", "tensor"]

LEAST_SCALE = 1e-12
"""The scale of an activation that is zero everywhere."""


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How activations, weights and biases become integers.

    smooth: even out the channels of a matrix product's input where that lowers the estimated error.
    correct_bias: take the mean shift of rounded weights off the bias.
    least_sqnr_db: a matrix product whose typical entries are estimated below this stays in float.
    weight_magnitude: the largest weight code, 127, or 63 where 8-bit products would saturate.
    support: which operators take part, and how the runtime fuses them.
    """

    activation_type: ActivationType
    symmetric: bool
    granularity: Granularity
    weight_magnitude: int
    smooth: bool
    correct_bias: bool
    least_sqnr_db: float
    support: QuantizationSupport


@dataclass(frozen=True, slots=True)
class QuantParameters:
    """real = (code - zero_point) * scale, for codes of `dtype`."""

    scale: float
    zero_point: int
    dtype: ActivationType

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest code."""
        return (0, 255) if self.dtype == "uint8" else (-128, 127)


def scheme_from_capabilities(
    capabilities: Capabilities,
    *,
    granularity: Granularity = "channel",
    symmetric: bool | None = None,
    smooth: bool = True,
    correct_bias: bool = True,
    least_sqnr_db: float = 18.0,
) -> QuantScheme:
    """Return the scheme for a runtime; None for `symmetric` takes the finest that it runs.

    Raises UsageError when the runtime has no int8 operators, or when asymmetric activations are asked of one that is
    symmetric only.
    """
    support = capabilities.quantization
    if not support.operators:
        raise UsageError(
            f"{capabilities.name} has no int8 operators, so there is nothing to quantize for it.",
            hint="Quantize for a target that runs int8, or build another precision.",
        )
    if symmetric is False and support.symmetric_activations:
        raise UsageError(
            f"{capabilities.name} takes symmetric int8 activations only.", hint="Leave the option symmetric out."
        )
    is_symmetric = support.symmetric_activations if symmetric is None else symmetric
    types = support.activation_types
    kind: ActivationType = "int8" if is_symmetric and "int8" in types else types[0]
    return QuantScheme(
        activation_type=kind,
        symmetric=is_symmetric,
        granularity=granularity if support.per_channel else "tensor",
        smooth=smooth,
        correct_bias=correct_bias,
        least_sqnr_db=least_sqnr_db,
        weight_magnitude=127 if support.weight_bits == 8 else 63,
        support=support,
    )


def check_ranges(model: ir.Model, context: Context, *, name: str, least_opset: int) -> None:
    """Raise UsageError where the pass `name` lacks calibrated ranges, or the graph an opset that has its Q/DQ."""
    opset = model.opset_imports.get("", least_opset)
    if opset < least_opset:
        raise UsageError(
            f"The graph has opset {opset}; the Q/DQ of {name} needs {least_opset}.",
            hint="Run the pass upgrade-opset first.",
        )
    if not context.ranges:
        raise UsageError(
            f"{name} needs calibrated ranges, and there are none.",
            hint="Give representative inputs with --calibration.",
        )


def activation_parameters(covered: ActivationRange, scheme: QuantScheme) -> QuantParameters:
    """Return scale and zero point so that the range is covered and zero is a code of its own."""
    if scheme.symmetric:
        peak = covered.symmetric_peak
        zero_point = 0 if scheme.activation_type == "int8" else 128
        return QuantParameters(_scale(peak / 127), zero_point, scheme.activation_type)
    low, high = min(covered.low, 0.0), max(covered.high, 0.0)
    below = round(-low / _scale((high - low) / 255))  # codes below zero's
    below = max(1 if low < 0 else 0, min(254 if high > 0 else 255, below))
    scale = _scale(max(-low / below if below else 0.0, high / (255 - below) if below < 255 else 0.0))
    least = 0 if scheme.activation_type == "uint8" else -128
    return QuantParameters(scale, least + below, scheme.activation_type)


def _scale(value: float) -> float:
    return float(np.float32(max(value, LEAST_SCALE)))
