"""Scales and zero points: half a step at most, zero exact, and what each runtime's support leads to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.capabilities import Capabilities, QuantizationSupport
from passes.errors import UsageError
from passes.quantize.ranges import ActivationRange
from passes.quantize.scheme import QuantScheme, activation_parameters, scheme_from_capabilities

SUPPORT = QuantizationSupport(operators=frozenset({"Conv"}), activation_types=("uint8", "int8"))


def scheme(*, symmetric: bool) -> QuantScheme:
    support = replace(SUPPORT, symmetric_activations=symmetric)
    return scheme_from_capabilities(Capabilities("test", 23, quantization=support))


@given(st.floats(-1e4, 0), st.floats(0, 1e4), st.floats(0, 1), st.booleans())
def test_the_error_is_at_most_half_a_step_within_the_range(low: float, high: float, at: float, symmetric: bool) -> None:
    covered = ActivationRange(low, high, low, high)
    parameters = activation_parameters(covered, scheme(symmetric=symmetric))
    value = low + at * (high - low)
    least, most = parameters.bounds
    code = np.clip(np.rint(value / parameters.scale) + parameters.zero_point, least, most)
    error = abs((code - parameters.zero_point) * parameters.scale - value)
    assert error <= 0.5 * parameters.scale * 1.0001


@given(st.floats(-1e4, 1e4), st.floats(0, 1e4), st.booleans())
def test_zero_is_a_code(low: float, width: float, symmetric: bool) -> None:
    parameters = activation_parameters(ActivationRange(low, low + width, low, low + width), scheme(symmetric=symmetric))
    least, most = parameters.bounds
    assert least <= parameters.zero_point <= most
    assert parameters.scale > 0
    if symmetric:
        assert (parameters.dtype, parameters.zero_point) == ("int8", 0)


def test_asymmetric_is_refused_where_the_runtime_is_symmetric_only() -> None:
    symmetric_only = replace(SUPPORT, symmetric_activations=True)
    with pytest.raises(UsageError, match="symmetric int8 activations only"):
        scheme_from_capabilities(Capabilities("test", 23, quantization=symmetric_only), symmetric=False)


def test_a_runtime_without_int8_operators_is_refused() -> None:
    with pytest.raises(UsageError, match="no int8 operators"):
        scheme_from_capabilities(Capabilities("test", 23))


def test_seven_bits_bound_the_weights() -> None:
    support = replace(SUPPORT, weight_bits=7)
    assert scheme_from_capabilities(Capabilities("test", 23, quantization=support)).weight_magnitude == 63
