"""Activation ranges from a user's samples, in one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from passes.base import Event
from passes.errors import UsageError
from passes.quantize.channel_statistics import ChannelStatistics
from passes.quantize.exposure import ExposedGraph, free_arena
from passes.quantize.histogram import Histogram
from passes.quantize.range_methods import RangeMethod, range_from_histogram
from passes.quantize.ranges import ActivationRange, Ranges
from passes.quantize.segments import Segments
from passes.quantize.signal import RULE, read_for_extremes, same_entries, signal_values

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

SEGMENT_BYTES = 64 << 20
"""Inner values held at once, about; a sample whose values need more is run in segments."""

_CHANNEL_AXIS = {"Conv": 1, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
"""Where the input channels of an operator's first input lie."""

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True, slots=True)
class _Statistics:
    """What is gathered of one value; no histogram where another value has the same entries."""

    histogram: Histogram | None
    channels: ChannelStatistics | None

    def add(self, array: npt.NDArray[np.generic]) -> None:
        floats = np.asarray(array, dtype=np.float32)
        if self.histogram is not None:
            self.histogram.add(floats)
        if self.channels is not None and floats.ndim > 1:
            self.channels.add(floats)


def calibrate(
    model: ir.Model,
    samples: Iterable[Mapping[str, npt.NDArray[np.generic]]],
    *,
    values: Collection[str] | None = None,
    method: RangeMethod = "mse",
    threads: int = 1,
    segment_bytes: int = SEGMENT_BYTES,
    progress: Callable[[int], None] | None = None,
) -> Ranges:
    """Return the ranges of the model's signal values over `samples`.

    `values` limits it to these names; None takes every float value that depends on the data. The samples are read once,
    may differ in shape, and none is kept. `progress` is called with the number of samples done. Raises UsageError for
    no samples, and for one that lacks an input, has a wrong shape or type, or holds NaN.
    """
    signals, excluded = signal_values(model)
    names = [str(value.name) for value in signals if value.name and (values is None or value.name in values)]
    if not names:
        return Ranges(excluded=excluded, method=method)
    exposed = ExposedGraph(model, wanted=names, threads=threads)
    names = [name for name in names if exposed.types[name] in _FLOATS]
    roots = same_entries(model, names)
    axes = _channel_axes(model)
    statistics = {
        name: _Statistics(
            Histogram() if roots[name] == name else None, ChannelStatistics(axes[name]) if name in axes else None
        )
        for name in names
    }
    asked = [name for name, each in statistics.items() if each.histogram is not None or each.channels is not None]
    try:
        done = _gather(Segments(exposed, asked, segment_bytes), samples, statistics, threads=threads, progress=progress)
    finally:
        free_arena()
    if done == 0:
        raise UsageError(
            "int8 needs calibration samples, and none were given.",
            hint="Give representative inputs with --calibration: an .npz file, a folder of them, or a function.",
        )
    return _ranges(model, statistics, roots, excluded, method=method, samples=done)


def _gather(
    segments: Segments,
    samples: Iterable[Mapping[str, npt.NDArray[np.generic]]],
    statistics: Mapping[str, _Statistics],
    *,
    threads: int,
    progress: Callable[[int], None] | None,
) -> int:
    """Run the samples and count their values, one value in each thread; returns how many samples there were."""
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for feeds in samples:
            for arrays in segments.run(feeds, sample=done):
                _count(arrays, statistics, pool)
            done += 1
            if progress is not None:
                progress(done)
    return done


def _count(
    arrays: Mapping[str, npt.NDArray[np.generic]], statistics: Mapping[str, _Statistics], pool: Executor
) -> None:
    largest_first = sorted(arrays, key=lambda name: -arrays[name].size)
    for _ in pool.map(lambda name: statistics[name].add(arrays[name]), largest_first):
        pass  # raises what a thread raised


def _ranges(
    model: ir.Model,
    statistics: Mapping[str, _Statistics],
    roots: Mapping[str, str],
    excluded: Sequence[Event],
    *,
    method: RangeMethod,
    samples: int,
) -> Ranges:
    sensitive = read_for_extremes(model) if method == "auto" else frozenset()
    found: dict[str, ActivationRange] = {}
    events = list(excluded)
    for name, each in statistics.items():
        histogram = statistics[roots[name]].histogram
        assert histogram is not None
        reason = _unusable(histogram)
        if reason:
            events.append(Event(RULE, name, reason))
            continue
        if histogram.left_out:
            left_out = f"{histogram.left_out} entries were not finite or beyond 1e30: left out of the range"
            events.append(Event(RULE, name, left_out))
        root = roots[name]
        if root != name and root in found and (root in sensitive) == (name in sensitive):
            found[name] = replace(found[root], channels=each.channels.ranges() if each.channels else None)
        else:
            found[name] = range_from_histogram(
                histogram, method, channels=each.channels, keeps_outliers=name in sensitive
            )
    return Ranges(found, tuple(events), samples, method)


def _unusable(histogram: Histogram) -> str:
    if histogram.total == 0:
        return "no finite entry below 1e30: a mask" if histogram.left_out else "empty in every sample"
    return ""


def _channel_axes(model: ir.Model) -> dict[str, int]:
    axes: dict[str, int] = {}
    for node in model.graph:
        first = node.inputs[0] if node.inputs else None
        if node.attributes.get_int("transA", 0):
            continue  # its channels lie along axis 0, and nothing is computed from them
        if node.op_type in _CHANNEL_AXIS and first is not None and first.name and len(node.inputs) > 1:
            weight = node.inputs[1]
            if weight is not None and weight.const_value is not None:
                axes.setdefault(first.name, _CHANNEL_AXIS[node.op_type])
    return axes
