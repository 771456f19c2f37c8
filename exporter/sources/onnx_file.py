"""An ONNX file as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.results import Attempt
from exporter.sources.base import Traced
from exporter.sources.onnx_operators import refuse_unknown_operators
from passes.errors import BadModel
from passes.optional import require
from passes.serialization import load_model
from targets.base import TensorSpec
from targets.specs import specs_from_values

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.sources.base import Feeds
    from targets.base import Runner

_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class OnnxSource:
    """An ONNX file, run as the reference by ONNX Runtime with all of its optimizations off."""

    location: str
    framework: str
    path: Path
    specs: tuple[TensorSpec, ...]
    files: tuple[Path, ...]
    _sha256: str = field(default="", repr=False)

    def sha256(self) -> str:
        """Return a hash over the file and its external data."""
        if not self._sha256:
            digest = hashlib.sha256()
            for file in self.files:
                digest.update(f"{file.name}\0".encode())
                with file.open("rb") as stream:
                    while chunk := stream.read(_CHUNK_BYTES):
                        digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.specs

    def example(self) -> Feeds | None:
        return None

    def trace(self, work: Path) -> Traced:
        """Return the graph as it is in the file, its weights memory-mapped; missing value types are inferred."""
        del work
        model = load_model(self.path)
        _give_ranks(model, self.specs)
        return Traced(_inferred(model) if _lacks_types(model) else model, (Attempt("read the ONNX file", 0.0),))

    def reference(self, *, threads: int = 1) -> AbstractContextManager[Runner]:
        from exporter.sources.onnx_runner import open_onnx

        return open_onnx(self.path, threads=threads, inputs=self.specs)

    def baselines(self, *, threads: int = 1) -> Iterator[tuple[str, AbstractContextManager[Runner]]]:
        """Yield nothing: the reference is all there is."""
        del threads
        yield from ()


def open_onnx_file(location: str, *, samples: Iterable[Feeds] | None = None) -> OnnxSource:
    """Return the source that an .onnx file is.

    Raises BadModel for one that is missing, broken or unsafe to load, and ModelBlocked with every node whose operator
    ONNX Runtime, which runs the reference, does not know. An input without a rank takes the rank of `samples`.
    """
    path = Path(location).expanduser()
    model = load_model(path)
    ort = require("onnxruntime", extra="test", need="An ONNX source")
    refuse_unknown_operators(model)
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    specs = _ranked(inputs, samples)
    return OnnxSource(location, f"onnxruntime {ort.__version__}", path, specs, _files(model, path))


def _ranked(inputs: Sequence[ir.Value], samples: Iterable[Feeds] | None) -> tuple[TensorSpec, ...]:
    """Return the inputs' specs; one without a rank has that of the first sample, each of its dimensions by a name."""
    specs = specs_from_values(inputs)
    unranked = {str(value.name) for value in inputs if value.shape is None}
    if not unranked:
        return specs
    first = next(iter(samples or ()), {})
    for name in unranked:
        if name not in first:
            raise BadModel(
                f"The file does not state the rank of the input '{name}'.",
                hint="Give --samples that show it, or write its shape into the file.",
            )
    return tuple(
        replace(spec, shape=tuple(f"{spec.name}_{axis}" for axis in range(first[spec.name].ndim)))
        if spec.name in unranked
        else spec
        for spec in specs
    )


def _give_ranks(model: ir.Model, specs: Sequence[TensorSpec]) -> None:
    import onnx_ir as ir

    shapes = {spec.name: spec.shape for spec in specs}
    for value in model.graph.inputs:
        if value.shape is None and str(value.name) in shapes:
            value.shape = ir.Shape(shapes[str(value.name)])


def _files(model: ir.Model, path: Path) -> tuple[Path, ...]:
    import onnx_ir as ir

    locations = {
        str(value.const_value.location)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    return (path, *(path.parent / location for location in sorted(locations)))


def _lacks_types(model: ir.Model) -> bool:
    return any(
        value.dtype is None or value.shape is None for node in model.graph for value in node.outputs if value.name
    )


def _inferred(model: ir.Model) -> ir.Model:
    from onnx_ir.passes.common import ShapeInferencePass

    inferred: ir.Model = ShapeInferencePass()(model).model
    return inferred
