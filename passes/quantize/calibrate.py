"""Activation ranges from a user's samples, in one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from passes.base import Event
from passes.errors import UsageError
from passes.quantize.exposure import ExposedGraph, run
from passes.quantize.histogram import ChannelStatistics, Histogram
from passes.quantize.range_methods import RangeMethod, range_from_histogram
from passes.quantize.ranges import ActivationRange, Ranges
from passes.quantize.signal import RULE, signal_values
from passes.quantize.value_groups import ValueGroups

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

GROUP_BYTES = 512 << 20
"""Inner values held at once; a sample whose values need more is run several times, a group of values each time."""

_CHANNEL_AXIS = {"Conv": 1, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
"""Where the input channels of an operator's first input lie."""


def calibrate(
    model: ir.Model,
    samples: Iterable[Mapping[str, npt.NDArray[np.generic]]],
    *,
    values: Collection[str] | None = None,
    method: RangeMethod = "mse",
    threads: int = 1,
    group_bytes: int = GROUP_BYTES,
    progress: Callable[[int], None] | None = None,
) -> Ranges:
    """Return the ranges of the model's signal values over `samples`.

    `values` limits it to these names; None takes every float value that depends on the data. The samples are read once,
    may differ in shape, and none is kept. `progress` is called with the number of samples done. Raises UsageError for
    no samples, or a sample whose inputs don't fit.
    """
    signals, excluded = signal_values(model)
    names = [str(value.name) for value in signals if value.name and (values is None or value.name in values)]
    if not names:
        return Ranges(excluded=excluded, method=method)
    exposed = ExposedGraph(model, threads=threads)
    names = _float_names(exposed, names)
    statistics = {name: Histogram() for name in names}
    axes = _channel_axes(model)
    channels = {name: ChannelStatistics(axes[name]) for name in names if name in axes}
    plan = ValueGroups(exposed, names, group_bytes)
    done = 0
    for feeds in samples:
        for group, session in plan.groups(feeds, sample=done):
            for name, array in zip(group, run(session, feeds, sample=done), strict=True):
                floats = np.asarray(array, dtype=np.float32)
                statistics[name].add(floats)
                if name in channels and floats.ndim > 1:
                    channels[name].add(floats)
        done += 1
        if progress is not None:
            progress(done)
    if done == 0:
        raise UsageError(
            "int8 needs calibration samples, and none were given.",
            hint="Give representative inputs with --calibration: an .npz file, a folder of them, or a function.",
        )
    found: dict[str, ActivationRange] = {}
    events = list(excluded)
    for name, histogram in statistics.items():
        reason = _unusable(histogram)
        if reason:
            events.append(Event(RULE, name, reason))
            continue
        if histogram.left_out:
            left_out = f"{histogram.left_out} entries were not finite or beyond 1e30: left out of the range"
            events.append(Event(RULE, name, left_out))
        found[name] = range_from_histogram(histogram, method, channels=channels.get(name))
    return Ranges(found, tuple(events), done, method)


def _unusable(histogram: Histogram) -> str:
    if histogram.total == 0:
        return "no finite entry below 1e30: a mask" if histogram.left_out else "empty in every sample"
    return ""


def _float_names(exposed: ExposedGraph, names: Sequence[str]) -> list[str]:
    """Return those of `names` that the runtime types as float tensors (a file may lack types)."""
    types = {output.name: output.type for output in exposed.session(names).get_outputs()}
    return [name for name in names if types[name] in ("tensor(float)", "tensor(float16)", "tensor(double)")]


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
