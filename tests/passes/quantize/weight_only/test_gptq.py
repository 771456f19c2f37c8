"""GPTQ and the descent after it: a smaller error of the product than rounding each weight by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.quantize.moments import Moments
from passes.quantize.weight_only.blocks import BlockCodes, Grid, dequantize, nearest_codes
from passes.quantize.weight_only.descent import descend
from passes.quantize.weight_only.gptq import curvature_of, propagated_codes, start_gptq
from passes.quantize.weight_only.rtn import best_parameters, start_rtn
from tests.support.rewriting import random_array

GRIDS = [Grid(4, 16), Grid(4, 0), Grid(4, 32, symmetric=True), Grid(4, 16, symmetric=True, negative_scales=True)]


def correlated(channels: int, *, seed: int = 0, shared: int = 6) -> Moments:
    """Return the moments of inputs that follow a few hidden causes, with a little of their own."""
    causes = random_array(2000, shared, seed=seed) @ random_array(shared, channels, seed=seed + 1)
    rows = causes + 0.3 * random_array(2000, channels, seed=seed + 2)
    return Moments(rows.T @ rows / np.float32(len(rows)), np.abs(rows).mean(axis=0), len(rows))


def product_error(weight: np.ndarray, quantized: BlockCodes, matrix: np.ndarray) -> float:
    off = (dequantize(quantized) - weight).astype(np.float64)
    return float(np.einsum("kn,kn->", off, matrix @ off))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("channels", [64, 40])
def test_errors_of_correlated_inputs_make_up_for_each_other(grid: Grid, channels: int) -> None:
    weight, moments = random_array(channels, 24, seed=5), correlated(channels)
    plain = product_error(weight, start_rtn(grid, moments)(weight), moments.matrix)
    best = start_gptq(grid, moments)(weight)
    assert best.codes.max() <= 15
    assert (best.zero_points is None) == grid.symmetric
    assert product_error(weight, best, moments.matrix) < 0.25 * plain


@pytest.mark.parametrize("grid", GRIDS)
def test_propagation_and_descent_each_help(grid: Grid) -> None:
    weight, moments = random_array(64, 24, seed=5), correlated(64)
    curvature = curvature_of(moments.matrix)
    scales, zeros = best_parameters(weight, grid)
    rounded = BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)
    propagated = BlockCodes(grid, propagated_codes(weight, scales, zeros, grid, curvature), scales, zeros)
    descended = descend(weight, propagated, curvature.matrix, sweeps=4)
    errors = [product_error(weight, each, moments.matrix) for each in (rounded, propagated, descended)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.95 * errors[1]


def test_important_rows_are_rounded_first() -> None:
    weight, moments = random_array(64, 24, seed=5), correlated(64)
    matrix = moments.matrix * np.outer(*[np.geomspace(0.05, 20, 64, dtype=np.float32)] * 2)  # the last rows matter most
    grid = Grid(4, 16)
    scales, zeros = best_parameters(weight, grid)
    ordered = curvature_of(matrix)
    assert list(ordered.order[:3]) != [0, 1, 2]
    natural = curvature_of(matrix)
    identity = np.arange(64)
    upper = np.linalg.cholesky(np.linalg.inv(natural.matrix.astype(np.float64))).T.astype(np.float32)
    unordered = type(ordered)(natural.matrix, identity, upper)
    errors = [
        product_error(
            weight, BlockCodes(grid, propagated_codes(weight, scales, zeros, grid, each), scales, zeros), matrix
        )
        for each in (ordered, unordered)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_the_factor_is_that_of_the_inverse() -> None:
    curvature = curvature_of(correlated(20).matrix)
    ordered = curvature.matrix[np.ix_(curvature.order, curvature.order)].astype(np.float64)
    np.testing.assert_allclose(curvature.upper.T @ curvature.upper @ ordered, np.eye(20), atol=1e-3)
    assert (np.diff(np.diagonal(ordered)) <= 0).all()
    assert (np.tril(curvature.upper, -1) == 0).all()


def test_without_correlation_it_rounds_to_nearest() -> None:
    weight, grid = random_array(32, 8, seed=1), Grid(4, 16)
    scales, zeros = best_parameters(weight, grid)
    diagonal = np.diag(np.linspace(1, 3, 32)).astype(np.float32)
    found = propagated_codes(weight, scales, zeros, grid, curvature_of(diagonal))
    assert np.array_equal(found, nearest_codes(weight, scales, zeros, grid))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(GRIDS), st.integers(1, 3))
def test_descent_never_raises_the_error(seed: int, grid: Grid, sweeps: int) -> None:
    weight = random_array(40, 6, seed=seed)
    matrix = curvature_of(correlated(40, seed=seed).matrix).matrix
    scales, zeros = best_parameters(weight, grid)
    start = BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)
    end = descend(weight, start, matrix, sweeps=sweeps)
    assert product_error(weight, end, matrix) <= product_error(weight, start, matrix) * 1.0001
    assert start.codes is not end.codes


def test_dead_and_constant_channels_are_survived() -> None:
    moments = correlated(32)
    moments.matrix[4], moments.matrix[:, 4] = 0, 0
    weight = random_array(32, 6)
    weight[:, 2] = 0
    found = start_gptq(Grid(4, 16), moments)(weight)
    assert np.isfinite(found.scales).all()
    assert np.abs(dequantize(found)[:, 2]).max() < 1e-6


def test_panels_of_columns_give_what_the_whole_gives() -> None:
    weight, moments = random_array(48, 20), correlated(48)
    quantizer = start_gptq(Grid(4, 16), moments)
    whole, parts = quantizer(weight), [quantizer(weight[:, :7]), quantizer(weight[:, 7:])]
    assert (whole.codes == np.concatenate([part.codes for part in parts], axis=1)).mean() > 0.99
