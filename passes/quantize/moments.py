"""Second moments of what constant matrices multiply, streamed over samples: what a weight's rounding costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from passes.errors import UsageError
from passes.matching import constant_tensor, integer, is_op, producer_of
from passes.quantize.exposure import ExposedGraph, free_arena
from passes.quantize.segments import Segments

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.quantize.weight_only.statistics import InputStatistics

    Feeds = Mapping[str, npt.NDArray[np.generic]]

HELD_BYTES = 512 << 20
"""Matrices held at once. What is more is computed by further readings of the samples, and kept on disk."""

VALUES_BYTES = 256 << 20
"""Inner values of one sample held at once."""

LARGEST_REAL = np.float32(1e18)
"""A row with an entry beyond this, or not finite, is a mask's doing and counts for nothing."""


@dataclass(frozen=True, slots=True)
class Moments:
    """The moments of the rows x [K] that a weight [K, N] multiplies.

    matrix: [K, K] float32, the mean of x x^T. magnitude: [K] float32, the mean of |x|. rows: how many were seen.
    The mean squared error of a product, summed over its columns, is trace(E^T matrix E) when its weight is off by E.
    drift: [K, K], for rows x that are not the original graph's, because of what was rounded before: weight + drift @
    weight is the weight that brings their product nearest to the original one. None for rows of the original.
    """

    matrix: npt.NDArray[np.float32]
    magnitude: npt.NDArray[np.float32]
    rows: int
    drift: npt.NDArray[np.float32] | None = None


def second_moments(
    model: ir.Model,
    samples: Iterable[Feeds],
    *,
    values: Collection[str] | None = None,
    threads: int = 1,
    held_bytes: int = HELD_BYTES,
    progress: Callable[[int], None] | None = None,
) -> SecondMoments:
    """Return the moments of each value that a constant matrix of MatMul or Gemm multiplies, by the value's name.

    Nothing is computed before it is asked for. Values are taken together in the graph's order, in groups whose matrices
    fit `held_bytes`; every group reads all `samples` once, so they must be readable again where there are several. A
    value whose matrix alone is larger is left out. `values` limits it to these names. The model must not be edited
    while moments are still to be asked for: give the original, and edit a copy. `progress` is told the number of
    samples read in each reading.
    """
    channels = _channels(model, values)
    groups: list[tuple[str, ...]] = []
    held = 0
    for name, count in channels.items():
        size_bytes = 4 * count * count
        if size_bytes > held_bytes:
            continue
        if not groups or held + size_bytes > held_bytes:
            groups.append(())
            held = 0
        groups[-1] = (*groups[-1], name)
        held += size_bytes
    if len(groups) > 1 and isinstance(samples, Iterator):
        raise UsageError(
            f"The samples must be read {len(groups)} times, and an iterator can be read only once.",
            hint="Give a list, or an object that can be iterated anew.",
        )
    return SecondMoments(model, samples, tuple(groups), threads, progress)


@dataclass(slots=True)
class SecondMoments(Mapping[str, Moments]):
    """Moments by value name, each group computed when one of its values is first asked for."""

    model: ir.Model
    samples: Iterable[Feeds]
    groups: tuple[tuple[str, ...], ...]
    threads: int = 1
    progress: Callable[[int], None] | None = None
    _held: dict[str, Moments] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _files: dict[str, tuple[Path, Moments]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Moments:
        if name in self._held:
            return self._held[name]
        if name not in self._files:
            if name not in self:
                raise KeyError(name)
            self._compute(next(group for group in self.groups if name in group))
            return self._held[name]
        path, rest = self._files[name]
        return Moments(np.load(path), rest.magnitude, rest.rows)

    def __iter__(self) -> Iterator[str]:
        return (name for group in self.groups for name in group)

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __contains__(self, name: object) -> bool:
        return any(name in group for group in self.groups)

    def _compute(self, group: tuple[str, ...]) -> None:
        """Read all samples once for the values of `group`, which are held until the next group is computed."""
        self._held.clear()
        exposed = ExposedGraph(self.model, wanted=group, threads=self.threads)
        segments = Segments(exposed, group, VALUES_BYTES)
        sums: dict[str, _Sum] = {}
        done = 0
        for feeds in self.samples:
            for arrays in segments.run(feeds, sample=done):
                for name, array in arrays.items():
                    sums.setdefault(name, _Sum()).add(array)
            done += 1
            if self.progress is not None:
                self.progress(done)
        free_arena()
        if done == 0:
            raise UsageError(
                "Second moments need calibration samples, and none were given.",
                hint="Give representative inputs with --calibration: an .npz file, a folder of them, or a function.",
            )
        self._held |= {name: total.moments() for name, total in sums.items()}
        if len(self.groups) > 1:
            self._store()

    def _store(self) -> None:
        """Write what is held to disk too, so that asking again costs no reading of the samples."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphwright-moments-")
        for name, moments in self._held.items():
            path = Path(self._folder.name) / f"{len(self._files)}.npy"
            np.save(path, moments.matrix)
            empty = np.empty((0, 0), np.float32)
            self._files[name] = (path, Moments(empty, moments.magnitude, moments.rows))


@dataclass(slots=True)
class _Sum:
    """The running sums of one value's rows."""

    matrix: npt.NDArray[np.float32] | None = None
    magnitude: npt.NDArray[np.float64] | None = None
    rows: int = 0

    def add(self, array: npt.NDArray[np.generic]) -> None:
        rows = np.asarray(array, np.float32).reshape(-1, array.shape[-1])  # [rows, K]
        largest = np.abs(rows).max(axis=1, initial=0.0)
        is_real = largest <= LARGEST_REAL  # False for NaN too
        if not is_real.all():
            rows = rows[is_real]
        product = rows.T @ rows
        magnitude = np.abs(rows).sum(axis=0, dtype=np.float64)
        if self.matrix is None or self.magnitude is None:
            self.matrix, self.magnitude = product, magnitude
        else:
            self.matrix += product
            self.magnitude += magnitude
        self.rows += rows.shape[0]

    def moments(self) -> Moments:
        assert self.matrix is not None
        assert self.magnitude is not None
        count = max(self.rows, 1)
        self.matrix /= np.float32(count)
        return Moments(self.matrix, (self.magnitude / count).astype(np.float32), self.rows)


def _channels(model: ir.Model, values: Collection[str] | None) -> dict[str, int]:
    """Return K of each value that a constant [K, N] multiplies from the right, or a constant [N, K] transposed."""
    found: dict[str, int] = {}
    for node in model.graph:
        if not is_op(node, "MatMul", "Gemm") or integer(node, "transA", 0):
            continue
        source, weight, axis = node.inputs[0], node.inputs[1], integer(node, "transB", 0)
        transpose = producer_of(weight, "Transpose")
        if transpose is not None:
            weight, axis = transpose.inputs[0], 1 - axis
        tensor = constant_tensor(weight)
        if tensor is None or len(tensor.shape) != 2 or source is None or constant_tensor(source) is not None:
            continue
        if source.name and (values is None or source.name in values):
            found.setdefault(source.name, int(tensor.shape.numpy()[axis]))
    return found


def statistics_of(value: ir.Value, moments: Mapping[str, InputStatistics]) -> InputStatistics | None:
    """Return the moments of a value as it is now: divided by the channel factors that a pass has left with it.

    None where there are none.
    """
    known = moments.get(str(value.name))
    factors = value.meta.get("channel_factors")
    if known is None or factors is None:
        return known
    scale = np.asarray(1 / factors, np.float32)
    return Moments(known.matrix * scale * scale[:, None], known.magnitude * scale, known.rows)
