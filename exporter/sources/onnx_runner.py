"""An ONNX graph as a Runner: ONNX Runtime with every optimization off, so that the graph itself is what runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.sample_fit import fitted
from passes.errors import BadModel, CannotRun, UsageError
from passes.optional import require
from targets.base import Dim, TensorSpec
from targets.feeds import plain_text

if TYPE_CHECKING:
    from targets.base import Array

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16", "tensor(bool)": "bool", "tensor(string)": "string",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


@dataclass(slots=True)
class OnnxRunner:
    """Runs a session on numpy arrays, by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    session: Any

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        arrays = fitted(feeds, self.inputs, label="This call", finite=False)
        names = [spec.name for spec in self.outputs]
        try:
            results = self.session.run(names, arrays)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            said = str(error).strip().splitlines()
            raise UsageError(f"The graph does not run on {shapes}: {said[0] if said else error!r}") from error
        return {name: plain_text(array) for name, array in zip(names, results, strict=True)}


@contextmanager
def open_onnx(path: Path, *, threads: int, inputs: tuple[TensorSpec, ...] | None = None) -> Iterator[OnnxRunner]:
    """Yield a runner of the file, which takes `inputs`; None takes those that the file states.

    Raises BadModel for one that ONNX Runtime refuses, CannotRun without a kernel.
    """
    ort = require("onnxruntime", extra="test", need="Running an ONNX file")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise CannotRun(
            f"ONNX Runtime has no kernel for this graph: {error}",
            hint="Its CPU kernels lack some types (bfloat16 among them): verify in fp32, or on another target.",
        ) from error
    except Exception as error:
        raise BadModel(
            f"ONNX Runtime does not load {path.name}: {error}",
            hint="An operator without a kernel there, or an invalid graph: see the reason above.",
        ) from error
    yield OnnxRunner(inputs or _specs(session.get_inputs()), _specs(session.get_outputs()), session)


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(value.name, _DTYPES.get(value.type, value.type), tuple(map(_dim, value.shape))) for value in values
    )


def _dim(dim: Any) -> Dim:
    return dim if isinstance(dim, (int, str)) else None
