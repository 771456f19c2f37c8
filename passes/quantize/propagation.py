"""Second moments of a graph whose weights are rounded one after another: each weight sees what those before it did.

So the errors of the layers before are known when a weight is rounded, and partly made up for, as in Frantar et al.
(arXiv 2210.17323), who round block after block, and in Yuhang Li et al., "GPTAQ: Efficient Finetuning-Free Quantization
for Asymmetric Calibration", 2025 (arXiv 2504.02692), who aim at the original's product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.moments import LARGEST_REAL, Moments, SecondMoments, statistics_of
from passes.quantize.walking import Walk

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.quantize.weight_only.statistics import InputStatistics

    Feeds = Mapping[str, npt.NDArray[np.generic]]

Lookup = Callable[["ir.Value"], "InputStatistics | None"]
"""Gives the statistics of a value of the graph that is edited; None where there are none."""

DRIFT_DAMPING = 0.02
"""Added to the diagonal, as a share of its mean, where the drift is solved for: what is hardly known is left alone."""


@dataclass(slots=True)
class PropagatedMoments:
    """Moments of the values of one graph while a pass edits it, asked for in the order of the graph.

    `original` is the graph before; both are run over the samples once altogether, piece by piece.
    """

    original: ir.Model
    samples: Iterable[Feeds]
    threads: int = 1
    progress: Callable[[int], None] | None = None
    _before: Walk | None = None
    _now: Walk | None = None
    _last: tuple[ir.Value, Moments] | None = None
    _names: dict[str, ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value) -> Moments:
        """Return the moments of `value`, of the graph as it is now up to there, with the drift from the original."""
        if self._last is not None and self._last[0] is value:
            return self._last[1]
        if self._before is None or self._now is None:
            import onnx_ir as ir

            assert value.graph is not None
            functions = list(self.original.functions.values())
            edited = ir.Model(value.graph, ir_version=self.original.ir_version, functions=functions)
            self._before = Walk(self.original, self.samples, self.threads)
            self._now = Walk(edited, self.samples, self.threads)
            self._names = {str(made.name): made for node in self.original.graph for made in node.outputs}
            self._names |= {str(given.name): given for given in self.original.graph.inputs}
        total = _Sum(value.meta.get("channel_factors"))
        pairs = zip(self._before.values(self._names[str(value.name)]), self._now.values(value), strict=True)
        for done, (before, now) in enumerate(pairs, 1):
            total.add(before, now)
            if self.progress is not None:
                self.progress(done)
        self._last = (value, total.moments())
        return self._last[1]


@dataclass(slots=True)
class _Sum:
    """Running sums over the rows of a value as it is now, and as it was, divided by `factors`."""

    factors: npt.NDArray[np.float32] | None
    matrix: npt.NDArray[np.float32] | None = None
    cross: npt.NDArray[np.float32] | None = None
    magnitude: npt.NDArray[np.float64] | None = None
    rows: int = 0

    def add(self, before: npt.NDArray[np.generic], now: npt.NDArray[np.generic]) -> None:
        old, rows = _rows(before), _rows(now)
        if self.factors is not None:
            old = old / self.factors
        is_real = (np.abs(old).max(axis=1) <= LARGEST_REAL) & (np.abs(rows).max(axis=1) <= LARGEST_REAL)
        old, rows = old[is_real], rows[is_real]
        matrix, cross = rows.T @ rows, rows.T @ (old - rows)
        magnitude = np.abs(rows).sum(axis=0, dtype=np.float64)
        if self.matrix is None or self.cross is None or self.magnitude is None:
            self.matrix, self.cross, self.magnitude = matrix, cross, magnitude
        else:
            self.matrix += matrix
            self.cross += cross
            self.magnitude += magnitude
        self.rows += rows.shape[0]

    def moments(self) -> Moments:
        assert self.matrix is not None
        assert self.cross is not None
        assert self.magnitude is not None
        count = max(self.rows, 1)
        matrix = self.matrix / np.float32(count)
        damped = matrix.astype(np.float64)
        diagonal = np.einsum("kk->k", damped)
        diagonal += max(DRIFT_DAMPING * float(diagonal.mean()), 1e-12)
        drift = np.linalg.solve(damped, self.cross / np.float64(count)).astype(np.float32)
        return Moments(matrix, (self.magnitude / count).astype(np.float32), self.rows, drift)


def _rows(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    return np.asarray(array, np.float32).reshape(-1, array.shape[-1])


def statistics_by_value(moments: Mapping[str, InputStatistics], *, propagates: bool) -> Lookup:
    """Return what gives the statistics of a value of the graph that a pass edits.

    With `propagates`, they are those of the graph as it is when they are asked for, and values must be asked for in the
    order of the graph; it takes moments that know their samples. Without, they are the original graph's.
    """
    if not propagates or not isinstance(moments, SecondMoments):
        return lambda value: statistics_of(value, moments)
    propagated = PropagatedMoments(moments.model, moments.samples, moments.threads, moments.progress)
    return lambda value: propagated.of(value) if value.name in moments else None
