"""Running any legal graph: on ONNX Runtime without its optimizations, else on onnx's reference evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx


class CannotRun(Exception):
    """Neither runtime takes the graph; the message has both reasons."""


@dataclass(frozen=True, slots=True)
class Run:
    """Outputs by name, and the runtime that gave them."""

    outputs: Mapping[str, Any]
    runtime: str


def run_anywhere(model: onnx.ModelProto, feeds: Mapping[str, Any], *, first: str = "onnxruntime") -> Run:
    """Return the outputs for `feeds`; tries the runtime `first`, then the other. Raises CannotRun."""
    order = ("onnxruntime", "reference") if first == "onnxruntime" else ("reference", "onnxruntime")
    reasons = []
    for runtime in order:
        try:
            return Run(_RUNTIMES[runtime](model, feeds), runtime)
        except Exception as error:
            reasons.append(f"{runtime}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    raise CannotRun("; ".join(reasons))


def run_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs from ONNX Runtime on one CPU thread, its graph optimizations off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    fed = {name: _fed(value, kinds.get(name, 0)) for name, value in feeds.items()}
    names = [value.name for value in session.get_outputs()]
    if any(isinstance(value, onnxruntime.OrtValue) for value in fed.values()):
        fed = {name: _ort_value(value) for name, value in fed.items()}
        results = session.run_with_ort_values(names, fed)
        return {name: result.numpy() for name, result in zip(names, results, strict=True)}
    return dict(zip(names, session.run(names, fed), strict=True))


def _fed(value: Any, kind: int) -> Any:
    import onnxruntime

    if (isinstance(value, np.ndarray) and value.dtype.kind == "V") or getattr(value, "dtype", None) in _small_types():
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(value), kind)
    return value


def _ort_value(value: Any) -> Any:
    import onnxruntime

    if isinstance(value, onnxruntime.OrtValue):
        return value
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))


def _small_types() -> tuple[Any, ...]:
    import ml_dtypes

    names = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4")
    return tuple(np.dtype(getattr(ml_dtypes, name)) for name in names)


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs from onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        session = ReferenceEvaluator(model)
        return dict(zip(session.output_names, session.run(None, dict(feeds)), strict=True))


_RUNTIMES = {"onnxruntime": run_onnxruntime, "reference": run_reference}


def value_difference(old: Any, new: Any, *, rtol: float, atol: float) -> str:
    """Return how two outputs differ (arrays, sequences, optionals, strings); empty when they agree. NaN equals NaN."""
    if old is None or new is None:
        return "" if old is None and new is None else "one is None"
    if isinstance(old, list | tuple):
        if not isinstance(new, list | tuple) or len(old) != len(new):
            return "sequences of different length"
        found = [value_difference(a, b, rtol=rtol, atol=atol) for a, b in zip(old, new, strict=True)]
        return next((text for text in found if text), "")
    old, new = np.asarray(old), np.asarray(new)
    if old.shape != new.shape:
        return f"shape {list(new.shape)}, not {list(old.shape)}"
    if old.dtype.kind in "OSU" or new.dtype.kind in "OSU":
        return "" if old.astype(str).tolist() == new.astype(str).tolist() else "strings differ"
    if old.dtype != new.dtype:
        return f"type {new.dtype}, not {old.dtype}"
    if old.dtype.kind in "iub":
        return "" if np.array_equal(old, new) else f"{int((old != new).sum())} of {old.size} elements differ"
    kind = np.complex128 if old.dtype.kind == "c" else np.float64
    left, right = old.astype(kind), new.astype(kind)
    if np.allclose(right, left, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    with np.errstate(all="ignore"):
        error = np.abs(left - right)
    return f"moved by up to {float(np.nanmax(error, initial=0.0)):.3g}, or where it is finite"


def outputs_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], *, rtol: float, atol: float, names: Sequence[str] = ()
) -> str:
    """Return the first output that differs, by name, and how; empty when all agree."""
    if list(old) != list(new):
        return f"outputs are {list(new)}, not {list(old)}"
    for name in names or old:
        found = value_difference(old[name], new[name], rtol=rtol, atol=atol)
        if found:
            return f"'{name}': {found}"
    return ""
