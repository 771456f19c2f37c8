"""A torch module, given by a function that builds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.sources.torch_builder import Built, Dynamic, built_from, declared_dims, sample_from
from exporter.sources.torch_dims import Dims, dims_of
from exporter.user_code import UserFunction, load_function
from passes.errors import UsageError
from passes.optional import require
from targets.base import TensorSpec

if TYPE_CHECKING:
    from exporter.sources.base import Feeds, Traced
    from targets.base import Runner

_NO_SAMPLES = "Return (module, sample inputs) from the function, or give --samples."


@dataclass(slots=True)
class TorchSource:
    """A torch module: traced by torch's exporters, run as the reference by torch eager.

    samples: inputs that were given besides the builder's own; sizes that vary among them become dynamic dimensions
    when the builder declares none.
    """

    location: str
    framework: str
    built: Built
    builder: UserFunction
    samples: Iterable[Feeds] | None = None
    _dims: Dims | None = field(default=None, repr=False)
    _sha256: str = field(default="", repr=False)

    def sha256(self) -> str:
        """Return a hash over the builder's file and name, the module's layers and weights, and torch's version."""
        if not self._sha256:
            self._sha256 = _digest(self)
        return self._sha256

    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.dims().inputs

    def example(self) -> Feeds | None:
        from exporter.sources.torch_arrays import array_from_tensor

        if self.built.sample is None:
            return None
        return {name: array_from_tensor(tensor) for name, tensor in self.built.sample.tensors.items()}

    def dims(self) -> Dims:
        """Return the inputs, dynamic dimensions by name, and the tensors to trace with."""
        if self._dims is None:
            sample = self.built.sample
            if sample is None:
                first = next(iter(self.samples), None) if self.samples is not None else None
                if first is None:
                    raise UsageError(f"{self.location} returned no sample inputs.", hint=_NO_SAMPLES)
                sample = sample_from(self.built, first, location=self.location)
            declared: Dynamic | None = None
            if self.built.dynamic is not None:
                declared = declared_dims(self.built.dynamic, sample, location=self.location)
            self._dims = dims_of(sample, declared, self.samples or ())
        return self._dims

    def trace(self, work: Path) -> Traced:
        """Return the traced graph. Raises ModelBlocked for operators without a translation, else TraceFailed."""
        from exporter.sources.torch_strategies import trace

        return trace(self.built, self.dims(), location=self.location, work=work)

    def reference(self, *, threads: int = 1) -> AbstractContextManager[Runner]:
        """Open torch eager on `threads` threads; torch's own setting is put back at the end."""
        from exporter.sources.torch_runner import eager

        return eager(self.built, self.dims(), threads=threads)

    def baselines(self, *, threads: int = 1) -> Iterator[tuple[str, AbstractContextManager[Runner]]]:
        """Yield torch.compile; it compiles when opened, and raises CannotRun then if it can't."""
        from exporter.sources.torch_runner import compiled

        yield "torch.compile", compiled(self.built, self.dims(), threads=threads)


def open_torch(location: str, *, samples: Iterable[Feeds] | None = None) -> TorchSource:
    """Return the source that the function at `location` builds.

    The function takes no arguments and returns a torch.nn.Module, or (module, sample inputs), or (module, sample
    inputs, dynamic shapes). Sample inputs are a tensor, a tuple in forward's order, or a dict by forward's names;
    dynamic shapes are {input: {axis: name}}. Raises UsageError for anything else, MissingDependency without torch.
    """
    torch = require("torch", extra="torch", need="A torch source")
    builder = load_function(location)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        returned = builder()
    built = built_from(returned, location=location)
    return TorchSource(location, f"torch {torch.__version__}", built, builder, samples)


def _digest(source: TorchSource) -> str:
    import torch

    digest = hashlib.sha256(f"{source.framework}\0".encode())
    if source.builder.file is not None and source.builder.file.suffix == ".py":
        digest.update(source.builder.file.read_bytes())
    digest.update(f"\0{source.builder.function.__name__}\0{source.built.module}\0".encode())
    weights: Mapping[str, Any] = dict(source.built.module.state_dict())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {getattr(tensor, 'dtype', '')} {tuple(getattr(tensor, 'shape', ()))}\0".encode())
        if not isinstance(tensor, torch.Tensor):
            digest.update(repr(tensor).encode())
        elif tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()
