"""Running a graph as it is: ONNX Runtime on the CPU with its optimizations off, weights read where they lie."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import MissingDependency
from passes.optional import require

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_INLINE_BYTES = 64_000_000
"""Weights in memory of up to this size together are handed over in the protobuf; more of them go through a file."""

Outputs = list[dict[str, "np.ndarray"]]


def run_model(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> Outputs:
    """Return the outputs for each set of inputs. Raises what ONNX Runtime raises."""
    with tempfile.TemporaryDirectory(prefix="graphwright-run-") as folder:
        session = open_session(model, Path(folder))
        return [run_session(session, feed) for feed in feeds]


def open_session(model: ir.Model, folder: Path, *, threads: int | None = None) -> Any:
    """Return an inference session that maps weights where they lie; large ones in memory are put into `folder`.

    None for `threads` leaves their number to the runtime.
    """
    onnxruntime = require("onnxruntime", extra="test", need="Checking a graph")

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # a set that does not run is reported by us
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_prepacking", "1")  # it would copy the weights
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/")
    data = _referring_bytes(model, folder / "weights")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs by name; inputs that the graph does not have any more are left out."""
    names = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}
    results = session.run(names, {name: array for name, array in feed.items() if name in taken})
    return dict(zip(names, results, strict=True))


def outcomes(
    model: ir.Model, feeds: tuple[Mapping[str, np.ndarray], ...]
) -> tuple[dict[str, np.ndarray] | Exception, ...]:
    """Return for each set of inputs the outputs, or the exception that the run raised.

    The elements of a sequence are outputs of their own, `name[0]` and so on; an optional that is empty is none.
    """
    found: list[dict[str, np.ndarray] | Exception] = []
    with tempfile.TemporaryDirectory(prefix="graphwright-run-") as folder:
        try:
            session = open_session(model, Path(folder))
        except MissingDependency:
            raise
        except Exception as error:
            return tuple(error for _ in feeds)
        for feed in feeds:
            try:
                outputs = run_session(session, feed).items()
                found.append({key: array for name, result in outputs for key, array in _arrays(name, result)})
            except Exception as error:
                found.append(error)
    return tuple(found)


def _arrays(name: str, result: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of an output: one of a tensor, each of a sequence or a map, none of an empty optional."""
    import numpy as np

    if isinstance(result, list | dict):
        for key, element in result.items() if isinstance(result, dict) else enumerate(result):
            yield from _arrays(f"{name}[{key}]", element)
    elif result is not None:
        yield name, np.asarray(result)


def _referring_bytes(model: ir.Model, file: Path) -> bytes:
    """Return the model as bytes whose external weights are found by their absolute path."""
    import onnx_ir as ir

    from passes.serialization import INLINE_LIMIT_BYTES, read_attributes, read_tensor

    copy = model.clone()
    read_attributes(copy)
    weights = [
        (value, value.const_value)
        for graph in copy.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    in_memory = sum(tensor.nbytes for _, tensor in weights if not _lies_in_file(tensor))
    with tempfile.TemporaryFile() if in_memory <= _INLINE_BYTES else file.open("wb") as stream:
        for value, tensor in weights:
            if isinstance(tensor, ir.ExternalTensor) and _lies_in_file(tensor):
                if tensor.nbytes <= INLINE_LIMIT_BYTES:
                    value.const_value = read_tensor(tensor)
                else:
                    value.const_value = _reference(tensor, Path(tensor.path).resolve(), tensor.offset or 0)
            elif in_memory > _INLINE_BYTES and tensor.nbytes > INLINE_LIMIT_BYTES and tensor.dtype.name != "STRING":
                stream.write(b"\0" * (-stream.tell() % 4096))
                start = stream.tell()
                stream.write(tensor.tobytes())
                value.const_value = _reference(tensor, file.resolve(), start)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = read_tensor(tensor)
    data: bytes = ir.to_proto(copy).SerializeToString()
    return data


def _lies_in_file(tensor: Any) -> bool:
    """Return whether the tensor's file still holds its data: a file that was replaced is only mapped."""
    import onnx_ir as ir

    return isinstance(tensor, ir.ExternalTensor) and not tensor.meta


def _reference(tensor: Any, path: Path, offset: int) -> ir.ExternalTensor:
    import onnx_ir as ir

    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        str(path).lstrip("/"), offset, tensor.nbytes, tensor.dtype, shape=shape, name=str(tensor.name)
    )
