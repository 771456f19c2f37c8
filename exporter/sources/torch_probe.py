"""Whether a traced graph is right at the sizes it was traced at and at others: run it, compare it with torch eager."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.sources.torch_arrays import array_from_tensor
from passes.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from exporter.sources.torch_strategies import Subject
    from targets.base import Array

LEAST_SQNR_DB = 42.0
"""Below this, something was traced wrong: rounding alone keeps fp32 above 80 dB, and half precision above 45 dB."""


def disagreement(model: ir.Model, subject: Subject) -> str:
    """Return how the graph's outputs differ from the module's, naming the sizes; "" when they agree.

    This finds what no symbol tells: a size that was baked into a Reshape, a cache built for one batch. A graph of types
    that ONNX Runtime has no kernels for is let through: the accuracy check of the trace then says that it wasn't run.
    """
    from exporter.sources.onnx_runner import open_onnx
    from passes.serialization import save_model

    folder = subject.work / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "probe.onnx"
    try:
        save_model(model, file)
        with open_onnx(file, threads=1) as runner:
            for sizes, outputs in subject.runs:
                tensors = subject.dims.tensors_at(sizes)
                feeds = {name: array_from_tensor(tensor) for name, tensor in tensors.items()}
                wanted = {name: array_from_tensor(tensor) for name, tensor in outputs.items()}
                wrong = _difference(runner(feeds), wanted)
                if wrong:
                    at = ", ".join(f"{dim}={size}" for dim, size in sizes.items()) or "the sample's sizes"
                    return f"the traced graph is wrong at {at}: {wrong}"
    except CannotRun:
        return ""
    finally:
        for leftover in folder.glob("probe.onnx*"):
            Path(leftover).unlink()
    return ""


def _difference(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> str:
    if list(got) != list(wanted):
        return f"outputs are named {', '.join(got)}, not {', '.join(wanted)}"
    for name, expected in wanted.items():
        actual = got[name]
        if actual.shape != expected.shape:
            return f"'{name}' has shape {list(actual.shape)}, not {list(expected.shape)}"
        if actual.dtype != expected.dtype:
            return f"'{name}' is {actual.dtype.name}, not {expected.dtype.name}"
        sqnr_db = _sqnr_db(expected, actual)
        if not sqnr_db >= LEAST_SQNR_DB:
            return f"'{name}' differs from torch's (SQNR {sqnr_db:.1f} dB)"
    return ""


def _sqnr_db(expected: Array, actual: Array) -> float:
    """Return 10 log10(signal / error); inf for equal arrays, NaN or infinities in the same places counting as equal."""
    kind = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(kind), actual.astype(kind)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    if bool(same.all()):
        return float("inf")
    error = float(np.sum(np.abs(left - right, where=~same, out=np.zeros_like(left)) ** 2))
    finite = np.where(np.isfinite(left), left, 0.0)
    signal = float(np.sum(np.abs(finite) ** 2))
    return float(10 * np.log10(signal / error)) if signal > 0 and error > 0 else float("-inf")
