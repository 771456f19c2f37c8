"""Which single rewrite of a pipeline breaks a graph, found in log2(rewrites) runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from passes.base import Budget, Context, Event, PassResult
from passes.check import LOSSY, is_ill_conditioned, repeatable_outcomes, sizes_text
from passes.comparison import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, difference
from passes.errors import BadModel, GraphwrightError, PassBroken, UsageError
from passes.execution import outcomes
from passes.pipeline import Pipeline
from passes.sample_inputs import CHECK_SIZES, generated_inputs

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Culprit:
    """The rewrite after which the result is wrong, while it is right without it.

    limit: `--limit` with `pipeline` replays the graph up to and with it; one less stops right before. rule and node are
    "" where a pass raised before it made a rewrite.
    """

    name: str
    rule: str
    node: str
    problem: str
    pipeline: str
    limit: int
    changes: str = ""


@dataclass(frozen=True, slots=True)
class Localization:
    """What the bisection found. `culprit` is None where all `rewrites` keep the result; `runs` counts pipeline runs."""

    culprit: Culprit | None
    rewrites: int
    runs: int
    sets: int


@dataclass(slots=True)
class _Trial:
    """One pipeline on one graph, judged at any number of rewrites."""

    model: ir.Model
    pipeline: Pipeline
    context: Context
    feeds: tuple[Mapping[str, np.ndarray], ...]
    expected: Sequence[dict[str, np.ndarray] | Exception]
    runs: int = 0
    _known: dict[int, str] = field(default_factory=dict)

    def rewrite(self, limit: int) -> tuple[ir.Model | None, tuple[PassResult, ...], int, str]:
        """Return the graph after `limit` rewrites, the results, how many were made, and why there is no graph."""
        context = replace(self.context, budget=Budget(limit))
        self.runs += 1
        try:
            graph, results = self.pipeline.run(self.model, context=context)
        except PassBroken as error:
            return None, (), limit - (context.budget.left or 0), error.message
        return graph, results, limit - (context.budget.left or 0), ""

    def judge(self, limit: int, graph: ir.Model) -> None:
        """Note what is wrong with the graph that is known to come after `limit` rewrites."""
        self._known[limit] = self._compared(graph)

    def problem(self, limit: int) -> str:
        """Return what is wrong after `limit` rewrites; empty when nothing is."""
        if limit not in self._known:
            graph, _, _, raised = self.rewrite(limit)
            self._known[limit] = raised if graph is None else self._compared(graph)
        return self._known[limit]

    def _compared(self, graph: ir.Model) -> str:
        doubted, judged = "", 0
        for index, actual in enumerate(outcomes(graph, self.feeds)):
            old = self.expected[index]
            if isinstance(old, Exception):
                continue
            where = f"inputs {index}, {sizes_text(self.feeds[index])}"
            if isinstance(actual, Exception):
                return f"the graph does not run ({where}): {' '.join(str(actual).split())[:400]}"
            found = difference(old, actual, relative=RELATIVE_TOLERANCE, absolute=ABSOLUTE_TOLERANCE)
            judged += not found
            if found:
                doubted = f"the result changes ({where}): {found}"
                if not is_ill_conditioned(graph, self.feeds[index], old, actual):
                    return doubted
        return "" if judged else doubted


def find_culprit(
    model: ir.Model,
    pipeline: Pipeline,
    *,
    context: Context | None = None,
    feeds: tuple[Mapping[str, np.ndarray], ...] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Localization:
    """Return the rewrite of `pipeline` that changes the result of `model`, or makes it not run.

    Where several do, one of them: the result is right before it. `advance` is told the number of rewrites that are
    still in question. Raises UsageError for a pipeline that is meant to move results, BadModel for a graph that does
    not run as it is or gives other results each time, PassBroken where the result is wrong without a rewrite.
    """
    lossy = sorted({step.name for step in pipeline.flat()} & LOSSY.keys())
    if lossy:
        raise UsageError(
            f"The pipeline has '{lossy[0]}', which is meant to move results.", hint="Localize the other passes alone."
        )
    feeds = generated_inputs(model, sizes=CHECK_SIZES) if feeds is None else feeds
    expected = repeatable_outcomes(model, feeds)
    if all(isinstance(outcome, Exception) for outcome in expected):
        if isinstance(expected[0], GraphwrightError):
            raise expected[0]
        raise BadModel(
            f"The graph does not run before any pass: {expected[0]}",
            hint="Localizing needs operators that ONNX Runtime has, and a graph that takes generated inputs.",
        )
    trial = _Trial(model, pipeline, context or Context(), feeds, expected)
    whole, _, total, raised = trial.rewrite(_ENDLESS)
    if whole is not None:
        trial.judge(total, whole)
    if not raised and not trial.problem(total):
        return Localization(None, total, trial.runs, len(feeds))
    if raised and not trial.problem(total):
        # The pass raises before its next rewrite, and is not even begun once the budget is spent.
        culprit = Culprit(_raiser(raised), "", "", raised, str(pipeline), total + 1)
        return Localization(culprit, total, trial.runs, len(feeds))
    right, wrong = 0, total
    if trial.problem(0):
        raise PassBroken(
            f"A pass changes the graph without recording a rewrite: {trial.problem(0)}",
            hint="Localize parts of the pipeline with --pipeline to find which.",
        )
    while wrong - right > 1:
        advance(wrong - right)
        middle = (right + wrong) // 2
        if trial.problem(middle):
            wrong = middle
        else:
            right = middle
    return Localization(_culprit(trial, wrong, str(pipeline)), total, trial.runs, len(feeds))


def _raiser(message: str) -> str:
    parts = message.split("'")
    return parts[1] if len(parts) > 1 else ""


def _culprit(trial: _Trial, limit: int, pipeline: str) -> Culprit:
    before, _, _, _ = trial.rewrite(limit - 1)
    after, results, _, raised = trial.rewrite(limit)
    event = Event("", "")
    name = _raiser(raised)
    for result in results:
        if result.applied:
            name, event = result.name, result.applied[-1]
    changes = _changes(before, after) if before is not None and after is not None else ""
    return Culprit(name, event.rule, event.node, trial.problem(limit), pipeline, limit, changes)


def _changes(before: ir.Model, after: ir.Model) -> str:
    """Return the ONNX text around what differs, lines of before marked "-", of after "+"."""
    import onnx_ir as ir

    old, new = (ir.to_onnx_text(graph, exclude_initializers=True).splitlines() for graph in (before, after))
    diff = difflib.unified_diff(old, new, fromfile="before", tofile="after", n=3, lineterm="")
    return "\n".join(line[:2000] for line in diff)
