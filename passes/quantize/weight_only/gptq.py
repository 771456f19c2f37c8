"""Codes that make up for each other's rounding: GPTQ, then coordinate descent.

After Elias Frantar, Saleh Ashkboos, Torsten Hoefler and Dan Alistarh, "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", 2022 (arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.weight_only.blocks import BlockCodes, Grid
from passes.quantize.weight_only.descent import descend
from passes.quantize.weight_only.rtn import best_parameters

if TYPE_CHECKING:
    import numpy.typing as npt

    from passes.quantize.weight_only.blocks import Codes, Floats
    from passes.quantize.weight_only.methods import Quantizer
    from passes.quantize.weight_only.statistics import InputStatistics

DAMPING = 0.01
"""Added to the diagonal of the second moments, as a share of its mean: what the samples didn't show may come yet."""

SWEEPS = 4
"""Rounds of coordinate descent after GPTQ's one."""

_ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Curvature:
    """What all columns of a weight [K, N] share.

    matrix: [K, K], the damped mean of x x^T. order: the rows by falling mean square of what they multiply.
    upper: U, upper triangular, with U^T U the inverse of the matrix in that order.
    """

    matrix: Floats
    order: npt.NDArray[np.intp]
    upper: Floats


def start_gptq(grid: Grid, statistics: InputStatistics | None) -> Quantizer:
    """Return the quantizer for the least mean squared error of the product on what was calibrated.

    Where the statistics know how the rows have drifted from the original's, the product that is aimed at is that of
    the original rows (arXiv 2504.02692).
    """
    assert statistics is not None, "the table says that gptq needs samples"
    curvature, drift = curvature_of(statistics.matrix), statistics.drift

    def quantizer(weight: Floats) -> BlockCodes:
        if drift is not None:
            weight = weight + drift @ weight
        importance = np.diagonal(curvature.matrix)
        scales, zeros = best_parameters(weight, grid, importance=importance)
        codes = propagated_codes(weight, scales, zeros, grid, curvature)
        return descend(weight, BlockCodes(grid, codes, scales, zeros), curvature.matrix, sweeps=SWEEPS)

    return quantizer


def curvature_of(moments: Floats, *, damping: float = DAMPING) -> Curvature:
    """Return the damped moments, the order of rows, and the factor of the inverse.

    The factor is read off the matrix turned end to end, L L^T: the matrix itself is then R R^T, with R = L turned end
    to end and upper triangular, and U = R^-1.
    """
    matrix = np.array(moments, np.float32)
    diagonal = np.einsum("kk->k", matrix)  # a view
    diagonal += np.float32(max(damping * float(diagonal.mean()), 1e-12))
    order = np.argsort(-diagonal, kind="stable")
    lower = np.linalg.cholesky(matrix[np.ix_(order[::-1], order[::-1])].astype(np.float64))
    upper = np.triu(np.linalg.inv(lower)[::-1, ::-1]).astype(np.float32)
    return Curvature(matrix, order, upper)


def propagated_codes(
    weight: Floats, scales: Floats, zero_points: Codes | None, grid: Grid, curvature: Curvature
) -> Codes:
    """Return the codes [K, N] of GPTQ with scales and zero points [blocks, N] given beforehand.

    Rows are rounded in the curvature's order (the paper's "act-order"), each on its own block's grid; each row's error
    is made up for by the rows that are still to come.
    """
    upper, blocks = curvature.upper, curvature.order // grid.length(weight.shape[0])
    left = np.asarray(weight, np.float32)[curvature.order]  # [K, N], what is still to be rounded
    codes = np.empty(left.shape, np.uint8)
    for start in range(0, left.shape[0], _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, left.shape[0])
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            scale = scales[blocks[row]]
            zero = grid.middle if zero_points is None else zero_points[blocks[row]].astype(np.float32)
            code = np.clip(np.rint(left[row] / scale) + zero, 0, grid.highest)
            error = (left[row] - (code - zero) * scale) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], error)
            codes[curvature.order[row]], errors[row - start] = code, error
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return codes
