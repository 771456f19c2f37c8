"""Weight codes: within half a step, never worse than the covering scale, bounded, and bias shifts predicted."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.quantize.bias_correction import mean_shift
from passes.quantize.weighted import weight_of
from passes.quantize.weights import dequantize_weight, quantize_weight

WEIGHTS = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-100, 100, width=32))


@given(WEIGHTS, st.sampled_from([None, 0, 1]), st.sampled_from([63, 127]))
def test_codes_stand_for_the_weight(weight: np.ndarray, axis: int | None, magnitude: int) -> None:
    quantized = quantize_weight(weight, axis=axis, magnitude=magnitude)
    assert quantized.codes.shape == weight.shape
    assert np.abs(quantized.codes.astype(int)).max() <= magnitude
    other = None if axis is None else 1 - axis
    cover = np.maximum(np.abs(weight).max(axis=other, keepdims=True) / magnitude, 1e-12)
    plain = np.rint(weight / cover) * cover
    chosen = np.square(dequantize_weight(quantized) - weight).sum()
    assert chosen <= np.square(plain - weight).sum() * 1.001 + 1e-9


def test_a_least_scale_holds() -> None:
    least = np.array([0.5, 0.0], np.float32)
    quantized = quantize_weight(np.ones((2, 4), np.float32), axis=0, least_scale=least)
    assert quantized.scale[0] >= 0.5
    assert quantized.scale[1] < 0.01


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_mean_shift_of_a_convolution_is_what_it_does_to_the_mean(group: int) -> None:
    generator = np.random.default_rng(group)
    weight = generator.normal(size=(8, 4 // group, 1, 1)).astype(np.float32)
    constant = ir.Value(name="w", const_value=ir.Tensor(weight), shape=ir.Shape(weight.shape))
    node = ir.Node("", "Conv", [ir.Value(name="x"), constant], [ir.AttrInt64("group", group)])
    graph = ir.Graph([node.inputs[0]], node.outputs, nodes=[node], initializers=[constant])
    assert graph.initializers
    rounding = generator.normal(size=weight.shape).astype(np.float32)
    samples = generator.normal(size=(100, 4)) + 1
    found = weight_of(node)
    assert found is not None
    shift = mean_shift(found, rounding, samples.mean(axis=0))
    blocks = np.split(samples.mean(axis=0), group)
    rows = rounding.reshape(group, 8 // group, -1)
    expected = np.concatenate([block_rows @ block for block_rows, block in zip(rows, blocks, strict=True)])
    assert shift is not None
    assert np.allclose(shift, expected)
