"""Watching a pipeline from outside: timing, printing, dumping and structural checking."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from passes.errors import PassBroken, UsageError
from passes.schema_fit import misfits

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
    """Run the ONNX checker before and after each pass that changed the graph; names the pass that broke it.

    Nodes are compared with the definitions of their operators besides, see `passes.schema_fit`: the checker looks at
    neither the types of inputs nor, in all cases, whether the opset has the operator.

    replay: the text of the whole pipeline, for the message. input_problem: what was invalid before any pass. The
    checker tells of one problem only, so a graph that began with one is not judged until a pass has mended it.
    """

    replay: str = ""
    input_problem: str = ""
    _applied: int = field(default=0, repr=False)
    _is_valid: bool | None = field(default=None, repr=False)
    _known: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    def before(self, step: Pass, model: ir.Model) -> None:
        if self._is_valid is None:
            error = _structure_error(model)
            self._is_valid = error is None
            self._known = frozenset((found.op_type, found.reason) for found in misfits(model))
            self.input_problem = "" if error is None else " ".join(str(error).split())[:300]

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        if not result.applied:
            return
        self._applied += len(result.applied)
        unfit = next((found for found in misfits(model) if (found.op_type, found.reason) not in self._known), None)
        if unfit is not None:
            hint = replay_hint(self.replay, self._applied)
            raise PassBroken(f"The pass '{step}' left an invalid graph: {unfit}", hint=hint)
        error = _structure_error(model)
        if error is not None and self._is_valid:
            hint = replay_hint(self.replay, self._applied)
            raise PassBroken(f"The pass '{step}' left an invalid graph: {error}", hint=hint) from error
        self._is_valid = error is None


def _structure_error(model: ir.Model) -> Exception | None:
    """Return what the ONNX checker raises; None for a valid graph.

    It looks for weights in files relative to the working folder, and onnx_ir takes out the large ones of the outermost
    graph only: all others are read first.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import CheckerPass

    from passes.serialization import INLINE_LIMIT_BYTES, read_attributes, read_tensor

    copy = model.clone()  # the checker puts weights back in another order
    try:
        read_attributes(copy)
        for graph in copy.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                is_left_in = graph is not copy.graph or (tensor is not None and tensor.nbytes <= INLINE_LIMIT_BYTES)
                if isinstance(tensor, ir.ExternalTensor) and is_left_in:
                    value.const_value = read_tensor(tensor)
        CheckerPass()(copy)
    except Exception as error:
        return error
    return None


def replay_hint(pipeline: str, rewrites: int) -> str:
    """Return how to repeat a run up to and with rewrite number `rewrites`; empty where the pipeline isn't known."""
    return f"Replay with: --pipeline '{pipeline}' --limit {rewrites}" if pipeline else ""


def count_nodes(model: ir.Model) -> int:
    """Return the number of nodes of the graph, its subgraphs and its functions."""
    total = sum(len(graph) for graph in model.graphs())
    return total + sum(sum(1 for _ in function.all_nodes()) for function in model.functions.values())
