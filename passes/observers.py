"""Watching a pipeline from outside: timing, printing, dumping and structural checking."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from passes.errors import PassBroken, UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Pass, PassResult


class Observer:
    """Hooks around each pass; each does nothing unless overridden."""

    def before(self, step: Pass, model: ir.Model) -> None:
        """Called with the graph that `step` is about to rewrite."""

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Called with the rewritten graph."""


@dataclass(frozen=True, slots=True)
class PassStatistics:
    """One pass's cost and effect; `nodes_before` and `nodes_after` count subgraphs too."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int
    applied: int
    refused: int


@dataclass
class Statistics(Observer):
    """Wall time and node counts, one row for each pass that ran, in order; for one run of a pipeline."""

    rows: list[PassStatistics] = field(default_factory=list)
    _started: float = 0.0
    _nodes: int | None = None

    def before(self, step: Pass, model: ir.Model) -> None:
        if self._nodes is None:
            self._nodes = count_nodes(model)
        self._started = time.perf_counter()

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        seconds = time.perf_counter() - self._started
        before = 0 if self._nodes is None else self._nodes
        self._nodes = count_nodes(model) if result.applied else before
        self.rows.append(
            PassStatistics(str(step), seconds, before, self._nodes, len(result.applied), len(result.refused))
        )


@dataclass
class PrintAfter(Observer):
    """Write the graph as ONNX text after the named passes ("all" for every one)."""

    names: Collection[str]
    write: Callable[[str], object]

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        import onnx_ir as ir

        if "all" in self.names or step.name in self.names:
            self.write(f"// after {step}: {len(result.applied)} applied, {len(result.refused)} refused")
            self.write(ir.to_onnx_text(model, exclude_initializers=True))


@dataclass
class Dump(Observer):
    """Save the graph after each pass that changed it, as `NN-pass.onnx`."""

    folder: Path
    _index: int = 0

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        from passes.serialization import save_model

        self._index += 1
        if not result.applied:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"The dump folder {self.folder} cannot be made: {error}") from error
        save_model(model, self.folder / f"{self._index:02d}-{step.name}.onnx")


@dataclass
class CheckStructure(Observer):
    """Run the ONNX checker after each pass that changed the graph; names the pass that broke it.

    replay: the text of the whole pipeline, for the message.
    """

    replay: str = ""
    _applied: int = field(default=0, repr=False)

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        from onnx_ir.passes.common import CheckerPass

        if not result.applied:
            return
        self._applied += len(result.applied)
        try:
            CheckerPass()(model.clone())  # it takes large weights out and puts them back in another order
        except Exception as error:
            hint = replay_hint(self.replay, self._applied)
            raise PassBroken(f"The pass '{step}' left an invalid graph: {error}", hint=hint) from error


def replay_hint(pipeline: str, rewrites: int) -> str:
    """Return how to repeat a run up to and with rewrite number `rewrites`; empty where the pipeline isn't known."""
    return f"Replay with: --pipeline '{pipeline}' --limit {rewrites}" if pipeline else ""


def count_nodes(model: ir.Model) -> int:
    """Return the number of nodes of the graph, its subgraphs and its functions."""
    total = sum(len(graph) for graph in model.graphs())
    return total + sum(sum(1 for _ in function.all_nodes()) for function in model.functions.values())
