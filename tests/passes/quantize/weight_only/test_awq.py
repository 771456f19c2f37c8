"""AWQ: channels that matter are rounded more finely, and ranges are clipped by their effect on the product."""

from __future__ import annotations

import numpy as np
import pytest

from passes.quantize.moments import Moments
from passes.quantize.weight_only.awq import channel_factors, clipped_parameters, start_awq
from passes.quantize.weight_only.blocks import BlockCodes, Grid, dequantize, nearest_codes
from passes.quantize.weight_only.rtn import start_rtn
from tests.support.rewriting import random_array

GRIDS = [Grid(4, 32), Grid(4, 0), Grid(4, 32, symmetric=True)]


def moments_of(rows: np.ndarray) -> Moments:
    return Moments(rows.T @ rows / np.float32(len(rows)), np.abs(rows).mean(axis=0), len(rows))


def error(off: np.ndarray, moments: Moments) -> float:
    return float(np.einsum("kn,kn->", off, moments.matrix @ off))


@pytest.mark.parametrize("grid", GRIDS)
def test_an_outlier_channel_is_scaled_up(grid: Grid) -> None:
    rows = random_array(1000, 64)
    rows[:, 9] *= 60
    moments, weights = moments_of(rows), [random_array(64, 20, seed=1), random_array(64, 12, seed=2)]
    found = channel_factors(weights, grid, moments)
    assert found.factors[9] > 1.5 * np.delete(found.factors, 9).max()
    assert found.gain > 1.5
    plain = scaled = 0.0
    for weight in weights:
        plain += error(dequantize(start_rtn(grid, None)(weight)) - weight, moments)
        rounded = dequantize(start_rtn(grid, None)(weight * found.factors[:, None])) / found.factors[:, None]
        scaled += error(rounded - weight, moments)
    assert plain / scaled == pytest.approx(found.gain, rel=0.05)


def test_equal_channels_are_left_alone() -> None:
    moments = Moments(np.eye(64, dtype=np.float32), np.ones(64, np.float32), 1000)
    assert channel_factors([random_array(64, 20)], Grid(4, 32), moments).gain == pytest.approx(1)


@pytest.mark.parametrize("grid", [*GRIDS, Grid(4, 48)])
def test_ranges_are_clipped_by_their_effect_on_the_product(grid: Grid) -> None:
    # The large weights multiply what is hardly ever there, and the others' inputs rise and fall together.
    rows = random_array(1000, 1, seed=3) + 0.5 * random_array(1000, 64, seed=4)
    rows[:, ::16] *= 0.01
    moments, weight = moments_of(rows.astype(np.float32)), random_array(64, 40, seed=5)
    weight[::16] *= 6
    plain = error(dequantize(start_rtn(grid, None)(weight)) - weight, moments)
    assert error(dequantize(start_awq(grid, moments)(weight)) - weight, moments) < 0.8 * plain


def test_the_clipping_search_knows_correlation() -> None:
    rows = (random_array(1000, 1, seed=3) + 0.3 * random_array(1000, 64, seed=4)).astype(np.float32)
    moments, weight, grid = moments_of(rows), random_array(64, 40, seed=5), Grid(4, 32)
    errors = []
    for matrix in (moments.matrix, np.diag(np.diagonal(moments.matrix))):
        scales, zeros = clipped_parameters(weight, grid, matrix)
        found = BlockCodes(grid, nearest_codes(weight, scales, zeros, grid), scales, zeros)
        errors.append(error(dequantize(found) - weight, moments))
    assert errors[0] < 0.9 * errors[1]
