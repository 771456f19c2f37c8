"""The block grid, how codes are stored, and the search for the least squared error."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.quantize.weight_only.blocks import (
    PER_CHANNEL,
    BlockCodes,
    Grid,
    dequantize,
    fitting_group,
    nearest_codes,
    side_by_side,
)
from passes.quantize.weight_only.rtn import best_parameters, start_rtn
from passes.quantize.weight_only.storage import (
    code_type,
    packed_nibbles,
    stored_bytes,
    unpacked_nibbles,
    unsigned_codes,
)
from tests.support.rewriting import random_array

GRIDS = [
    Grid(bits, group, symmetric, negative_scales=negative)
    for bits in (4, 8)
    for group in (PER_CHANNEL, 16, 32)
    for symmetric, negative in ((True, False), (True, True), (False, False))
]


def quantized(weight: np.ndarray, grid: Grid) -> BlockCodes:
    return start_rtn(grid, None)(weight)


def max_abs_error(weight: np.ndarray, grid: Grid) -> float:
    """Return the squared error of the plain way: a scale that covers the block."""
    rows = weight.shape[0]
    count, length = grid.count(rows), grid.length(rows)
    blocks = np.pad(weight, ((0, count * length - rows), (0, 0))).reshape(count, length, -1)
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    if grid.symmetric:
        scales, zeros = np.maximum(high, -low) / (grid.middle - 1), None
    else:
        scales = (high - low) / grid.highest
        zeros = np.clip(np.rint(-low / scales), 0, grid.highest).astype(np.uint8)
    codes = nearest_codes(weight, scales.astype(np.float32), zeros, grid)
    return float(np.square(dequantize(BlockCodes(grid, codes, scales.astype(np.float32), zeros)) - weight).sum())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rows", [1, 16, 48, 50])
def test_codes_are_near_and_in_range(grid: Grid, rows: int) -> None:
    weight = random_array(rows, 7)
    found = quantized(weight, grid)
    assert found.codes.shape == weight.shape
    assert found.codes.max() <= grid.highest
    assert found.scales.shape == (grid.count(rows), 7)
    assert (found.zero_points is None) == grid.symmetric
    assert found.zero_points is None or found.zero_points.max() <= grid.highest
    assert (found.scales > 0).all() or grid.negative_scales
    error = np.square(dequantize(found) - weight).sum() / np.square(weight).sum()
    assert error < (2e-2 if grid.bits == 4 else 1e-4)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.bits == 4], ids=str)
def test_the_search_lowers_the_error_of_covering_scales(grid: Grid) -> None:
    weight = random_array(96, 40)
    weight[5] *= 4  # a few large weights: clipping them lets the others round finer
    searched = float(np.square(dequantize(quantized(weight, grid)) - weight).sum())
    assert searched < 0.95 * max_abs_error(weight, grid)


def test_a_negative_scale_reaches_the_larger_side_with_the_extra_code() -> None:
    weight = random_array(32, 64)
    errors = [
        np.square(dequantize(quantized(weight, Grid(4, 32, True, negative_scales=negative))) - weight).sum()
        for negative in (False, True)
    ]
    assert errors[1] < errors[0]


def test_rows_that_matter_more_round_finer() -> None:
    weight = random_array(32, 50)
    importance = np.ones(32, np.float32)
    importance[:4] = 1000
    grid = Grid(4, 32, False)
    errors = []
    for given_importance in (None, importance):
        scales, zeros = best_parameters(weight, grid, importance=given_importance)
        found = BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)
        errors.append(float((importance[:, None] * np.square(dequantize(found) - weight)).sum()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30, 1e30])
def test_a_constant_block_is_kept(grid: Grid, value: float) -> None:
    found = dequantize(quantized(np.full((32, 3), value, np.float32), grid))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-10)


def test_an_empty_weight_has_no_blocks() -> None:
    found = quantized(np.empty((16, 0), np.float32), Grid())
    assert found.codes.shape == (16, 0)
    assert found.scales.shape == (1, 0)


@given(
    rows=st.integers(1, 70), columns=st.integers(1, 5), index=st.integers(0, len(GRIDS) - 1), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_within_half_a_step_unless_clipped(rows: int, columns: int, index: int, seed: int) -> None:
    grid, weight = GRIDS[index], random_array(rows, columns, seed=seed)
    found = quantized(weight, grid)
    step = np.repeat(np.abs(found.scales), grid.length(rows), axis=0)[:rows]
    inside = (found.codes > 0) & (found.codes < grid.highest)
    assert (np.abs(dequantize(found) - weight)[inside] <= 0.5001 * step[inside] + 1e-7).all()


def test_panels_side_by_side_are_the_whole() -> None:
    weight, grid = random_array(32, 9), Grid(4, 16, False)
    whole = quantized(weight, grid)
    joined = side_by_side([quantized(weight[:, :4], grid), quantized(weight[:, 4:], grid)])
    np.testing.assert_array_equal(whole.codes, joined.codes)
    np.testing.assert_array_equal(whole.scales, joined.scales)
    np.testing.assert_array_equal(whole.zero_points, joined.zero_points)


@pytest.mark.parametrize(
    ("group", "rows", "fitting"),
    [
        (128, 256, 128),
        (128, 192, 64),
        (128, 48, PER_CHANNEL),
        (32, 48, 16),
        (128, 128, PER_CHANNEL),
        (64, 50, 0),
        (0, 64, 0),
    ],
)
def test_a_group_that_does_not_divide_falls_back(group: int, rows: int, fitting: int) -> None:
    assert fitting_group(group, rows) == fitting


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_nibbles_round_trip(count: int) -> None:
    codes = np.arange(count, dtype=np.uint8) % 16
    data = packed_nibbles(codes)
    assert data.size == (count + 1) // 2
    np.testing.assert_array_equal(unpacked_nibbles(data, count), codes)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_bytes_are_what_onnx_reads(bits: int, symmetric: bool) -> None:
    """The onnx package's own reader is the judge of the order of nibbles and of the sign."""
    grid = Grid(4 if bits == 4 else 8, 16, symmetric)
    codes = np.arange(15, dtype=np.uint8).reshape(3, 5) * np.uint8(1 if bits == 4 else 17)
    proto = onnx.TensorProto(data_type=int(code_type(grid)), dims=[3, 5], raw_data=stored_bytes(codes, grid).tobytes())
    read = onnx.numpy_helper.to_array(proto).astype(np.int32)
    np.testing.assert_array_equal(read, codes.astype(np.int32) - (grid.middle if symmetric else 0))
    np.testing.assert_array_equal(unsigned_codes(ir.from_proto(proto)), codes)
