"""Any mixture of a float graph and its quantized form, run by one session: see passes.quantize.switches."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.execution import open_session
from passes.quantize.switches import SwitchGraph, switch_graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.sources.base import Feeds
    from passes.base import PassResult
    from targets.base import Array


@dataclass(slots=True)
class Switchboard:
    """Runs the model with the operators that are named in low precision, and all others in float."""

    graph: SwitchGraph
    session: Any

    @property
    def names(self) -> tuple[str, ...]:
        """The operators, in graph order."""
        return tuple(switch.name for switch in self.graph.switches)

    def run(self, feeds: Feeds, low: Collection[str]) -> dict[str, Array]:
        """Return the model's outputs by name."""
        return self._run(feeds, low, self.graph.outputs)

    def work(self, feeds: Feeds) -> dict[str, int]:
        """Return how many multiplications each operator takes on this sample."""
        shapes = self._run(feeds, (), tuple(switch.shape_output for switch in self.graph.switches))
        return {
            switch.name: switch.row * max(1, math.prod(shapes[switch.shape_output].tolist()))
            for switch in self.graph.switches
        }

    def _run(self, feeds: Feeds, low: Collection[str], outputs: tuple[str, ...]) -> dict[str, Array]:
        switches = np.array([switch.name in low for switch in self.graph.switches], dtype=np.bool_)
        taken = {value.name for value in self.session.get_inputs()}
        arrays = {name: array for name, array in feeds.items() if name in taken}
        results = self.session.run(list(outputs), {**arrays, self.graph.switch_input: switches})
        return dict(zip(outputs, results, strict=True))


@contextmanager
def open_switchboard(
    model: ir.Model, quantized: ir.Model, result: PassResult, *, threads: int
) -> Iterator[Switchboard]:
    """Yield the switchboard of `model` and of what a quantization pass, with `result`, made of it."""
    graph = switch_graph(model, quantized, result)
    with tempfile.TemporaryDirectory(prefix="graphwright-switches-") as folder:
        yield Switchboard(graph, open_session(graph.model, Path(folder), threads=threads))
