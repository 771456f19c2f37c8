"""Checking a pipeline by running the graph before and after each pass."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from passes.errors import BadModel, GraphwrightError, PassBroken
from passes.observers import Observer, replay_hint
from passes.optional import require
from passes.sample_inputs import generated_inputs

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.base import Pass, PassResult

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5
"""How far an fp32 output may move: rewrites reorder sums, which costs a few units in the last place per layer."""

_PROTO_LIMIT_BYTES = 1_500_000_000

Outputs = list[dict[str, "np.ndarray"]]


@dataclass
class CheckNumerics(Observer):
    """Run the graph before and after each pass that changed it, and raise PassBroken where an output moved.

    The runs use ONNX Runtime on the CPU with its own optimizations off, on generated inputs of two sizes: integers
    within the ranges that Gather allows, masks of 0 and 1. `feeds` replaces the generated inputs. `replay` is the text
    of the whole pipeline, for the message. Passes that are meant to move the result, such as quantization, are named in
    `skip`: the graph must run after them, and later passes are compared with what it gives then.
    """

    replay: str = ""
    feeds: tuple[Mapping[str, np.ndarray], ...] | None = None
    skip: frozenset[str] = frozenset()
    relative: float = RELATIVE_TOLERANCE
    absolute: float = ABSOLUTE_TOLERANCE
    _expected: Outputs | None = field(default=None, repr=False)
    _applied: int = field(default=0, repr=False)

    def before(self, step: Pass, model: ir.Model) -> None:
        if self.feeds is None:
            self.feeds = generated_inputs(model)
        if self._expected is None:
            try:
                self._expected = run_model(model, self.feeds)
            except GraphwrightError:
                raise
            except Exception as error:
                raise BadModel(
                    f"The graph does not run before any pass, so no pass can be checked: {error}",
                    hint="Checking needs operators that ONNX Runtime has, and a graph that takes generated inputs.",
                ) from error

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        if not result.applied:
            return
        assert self._expected is not None
        assert self.feeds is not None
        self._applied += len(result.applied)
        hint = replay_hint(self.replay, self._applied)
        try:
            actual = run_model(model, self.feeds)
        except Exception as error:
            raise PassBroken(f"The graph does not run after the pass '{step}': {error}", hint=hint) from error
        if step.name not in self.skip:
            for index, (old, new) in enumerate(zip(self._expected, actual, strict=True)):
                problem = difference(old, new, relative=self.relative, absolute=self.absolute)
                if problem:
                    raise PassBroken(f"The pass '{step}' changed the result (inputs {index}): {problem}", hint=hint)
        self._expected = actual


def difference(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], *, relative: float, absolute: float
) -> str:
    """Return which output differs and by how much; empty when all agree. NaN agrees with NaN only."""
    import numpy as np

    if set(expected) != set(actual):
        return f"outputs are {sorted(actual)}, not {sorted(expected)}"
    for name, old in expected.items():
        new = actual[name]
        if old.dtype != new.dtype or old.shape != new.shape:
            return f"output '{name}' is {new.dtype}{list(new.shape)}, not {old.dtype}{list(old.shape)}"
        if old.dtype.kind in "iubOSU":
            if not np.array_equal(old, new):
                return f"output '{name}' differs in {int((old != new).sum())} of {old.size} elements"
            continue
        first, second = old.astype(np.float64), new.astype(np.float64)
        if not np.allclose(second, first, rtol=relative, atol=absolute, equal_nan=True):
            error = np.abs(first - second)
            worst = float(np.nanmax(error)) if np.isfinite(error).any() else float("nan")
            return (
                f"output '{name}' moved by up to {worst:.3g}, more than atol={absolute:g} + rtol={relative:g}, "
                f"or changed where it is finite"
            )
    return ""


def run_model(model: ir.Model, feeds: tuple[Mapping[str, np.ndarray], ...]) -> Outputs:
    """Return the outputs for each set of inputs, from ONNX Runtime on the CPU without its own graph optimizations."""
    from passes.serialization import save_model

    onnxruntime = require("onnxruntime", extra="test", need="Checking a graph")

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    weights = sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    if weights < _PROTO_LIMIT_BYTES:
        session = onnxruntime.InferenceSession(_loaded_bytes(model), options, providers=providers)
    else:
        with tempfile.TemporaryDirectory(prefix="graphwright-check-") as folder:
            path = Path(folder) / "model.onnx"
            save_model(model, path)
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}
    return [
        dict(zip(names, session.run(names, {k: v for k, v in feed.items() if k in taken}), strict=True))
        for feed in feeds
    ]


def _loaded_bytes(model: ir.Model) -> bytes:
    """Return the model as one byte string, its external weights read in."""
    import onnx_ir as ir

    from passes.serialization import read_tensor

    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                tensor = value.const_value
                value.const_value = read_tensor(tensor)
    data: bytes = ir.to_proto(copy).SerializeToString()
    return data
