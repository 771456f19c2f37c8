"""HQQ: heavy tails cost the many small weights less than with least squares."""

from __future__ import annotations

import numpy as np
import pytest

from passes.quantize.weight_only.blocks import Grid, dequantize
from passes.quantize.weight_only.hqq import NORM, sparse_parameters, start_hqq
from passes.quantize.weight_only.rtn import start_rtn
from tests.support.rewriting import random_array


def heavy_tailed(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_t(2.0, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("grid", [Grid(4, 32), Grid(4, 128), Grid(4, 64, symmetric=True), Grid(4, 0)])
def test_most_weights_of_a_heavy_tailed_matrix_are_rounded_more_finely(grid: Grid) -> None:
    weight = heavy_tailed(256, 40)
    errors = [np.abs(dequantize(start(grid, None)(weight)) - weight) for start in (start_hqq, start_rtn)]
    assert (errors[0] ** NORM).sum() < 0.98 * (errors[1] ** NORM).sum()
    assert np.median(errors[0]) < 0.9 * np.median(errors[1])


def test_the_norm_decides() -> None:
    weight, grid = heavy_tailed(256, 40), Grid(4, 128)
    sparse, square = (sparse_parameters(weight, grid, norm=norm)[0] for norm in (0.7, 2.0))
    assert np.median(sparse) < 0.95 * np.median(square)


@pytest.mark.parametrize("rows", [64, 40, 8])
def test_codes_stay_on_the_grid(rows: int) -> None:
    weight = random_array(rows, 5)
    weight[:, 1] = 0
    weight[:, 2] = 7
    weight[:, 3] = np.abs(weight[:, 3])
    found = start_hqq(Grid(4, 16), None)(weight)
    assert found.codes.shape == weight.shape
    assert found.codes.max() <= 15
    assert (found.scales > 0).all()
    assert np.abs(dequantize(found) - weight)[:, 1:3].max() < 0.01
