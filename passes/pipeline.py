"""A sequence of passes that runs on a copy, is watched from outside, and is text that parses back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from passes.base import Budget, Context, Pass, PassResult
from passes.collection import paused
from passes.errors import GraphwrightError, PassBroken

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.observers import Observer


@dataclass(frozen=True, slots=True)
class Repeat:
    """Passes run in turn until a round applies nothing, or `rounds` rounds are done: `repeat{rounds=4}(a,b)`.

    A pass that found nothing is not asked again until another one has changed the graph.
    """

    steps: tuple[Pass, ...]
    rounds: int = 8

    def __str__(self) -> str:
        options = "" if self.rounds == 8 else f"{{rounds={self.rounds}}}"
        return f"repeat{options}({','.join(map(str, self.steps))})"


Step = Pass | Repeat


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in order. `str()` gives the text that `passes.parse.pipeline_from_text` reads; `+` joins two."""

    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(self.steps + other.steps)

    def flat(self) -> tuple[Pass, ...]:
        """Return every pass once per mention, the ones inside `repeat` included."""
        return tuple(inner for step in self.steps for inner in (step.steps if isinstance(step, Repeat) else (step,)))

    def run(
        self,
        model: ir.Model,
        *,
        context: Context | None = None,
        observers: Sequence[Observer] = (),
        limit: int | None = None,
        is_consumed: bool = False,
    ) -> tuple[ir.Model, tuple[PassResult, ...]]:
        """Return a rewritten copy of `model`, sharing every weight that no pass changed, and one result per pass run.

        `limit` stops after that many rewrites, for bisection. A pass that raises is reported as PassBroken with the
        pipeline that replays it. `is_consumed` edits `model` itself: the caller has no further use for it.
        """
        context = context or Context()
        if limit is not None:
            context = replace(context, budget=Budget(limit))
        from passes.graph_model import GraphModel

        with paused():
            own = GraphModel.of(model if is_consumed else model.clone())
            run = _Run(own, context, tuple(observers), str(self))
            for step in self.steps:
                if isinstance(step, Repeat):
                    run.repeat(step)
                else:
                    run.once(step)
        return run.model, tuple(run.results)


@dataclass(slots=True)
class _Run:
    model: ir.Model
    context: Context
    observers: tuple[Observer, ...]
    text: str
    results: list[PassResult] = field(default_factory=list)
    _rewrites: int = 0
    _idle_at: dict[Pass, int] = field(default_factory=dict)

    def once(self, step: Pass) -> int:
        if self.context.budget.is_spent:
            return 0
        for observer in self.observers:
            observer.before(step, self.model)
        try:
            result = step.run(self.model, self.context)
        except GraphwrightError:
            raise
        except Exception as error:
            hint = f"Replay with: --pipeline '{self.text}'; --limit {self._rewrites} stops right before it."
            raise PassBroken(f"The pass '{step}' raised {type(error).__name__}: {error}", hint=hint) from error
        self.results.append(result)
        if not result.applied:
            self._idle_at[step] = self._rewrites
        self._rewrites += len(result.applied)
        for observer in self.observers:
            observer.after(step, self.model, result)
        return len(result.applied)

    def repeat(self, group: Repeat) -> None:
        for _ in range(group.rounds):
            if sum([self.once(step) for step in group.steps if self._idle_at.get(step) != self._rewrites]) == 0:
                return
