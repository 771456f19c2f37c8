"""The source contract: what the user has, which can trace itself to a graph and run itself as the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.results import Attempt
    from targets.base import Array, Runner, TensorSpec

Feeds = Mapping[str, "Array"]
"""One sample: input name -> array, batch dimension included."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A source's graph, the strategies tried for it, and the names that the graph's inputs and outputs have."""

    model: ir.Model
    attempts: tuple[Attempt, ...]


class Source(Protocol):
    """A model in its original framework."""

    location: str
    """As the user wrote it: "file.py:function", "package.module:function" or "model.onnx"."""

    framework: str
    """"torch 2.13.0", "onnxruntime 1.32.0" ...: what computes the reference."""

    def sha256(self) -> str:
        """Return a hash over what determines the model: code and weights, or the file with its external data."""
        ...

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs, dynamic dimensions by name."""
        ...

    def example(self) -> Feeds | None:
        """Return the sample inputs that came with the source, or None."""
        ...

    def trace(self, work: Path) -> Traced:
        """Return the traced graph; big files may be left in `work`. Raises TraceFailed with every attempt's reason."""
        ...

    def reference(self, *, threads: int = 1) -> AbstractContextManager[Runner]:
        """Open the original for running: the truth that every stage is compared with."""
        ...

    def baselines(self, *, threads: int = 1) -> Iterator[tuple[str, AbstractContextManager[Runner]]]:
        """Yield further ways to run the original, for speed only ("torch.compile")."""
        ...
