"""The ways of tracing a torch module, tried in order until one gives a graph that also holds at other sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.results import Attempt
from exporter.sources.base import Traced
from exporter.sources.torch_export import traced_by_dynamo, traced_by_script
from exporter.sources.torch_graph import finished_graph
from exporter.sources.torch_outputs import flat_module, output_specs
from exporter.sources.torch_probe import disagreement
from exporter.sources.torch_quiet import quiet, reason_of
from exporter.sources.torch_runner import EagerRun, eager_runs
from exporter.sources.torch_unsupported import unsupported_operators
from passes.errors import Blocker, ModelBlocked, TraceFailed

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from exporter.sources.torch_builder import Built
    from exporter.sources.torch_dims import Dims
    from targets.base import TensorSpec

OPSET = 23
"""The first opset with Attention and RMSNormalization, so that the exporter keeps what is meant."""

PLAIN_OPSET = 18
"""What the exporter's translations are written for; taken when a translation to `OPSET` is wrong."""


_REFUSED = "the exporter proved nothing, and the module itself took none of the other sizes that were tried"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is traced: the module flattened to tensors in, tensors out; `runs` are its true outputs at several sizes."""

    flat: torch.nn.Module
    dims: Dims
    tensors: tuple[torch.Tensor, ...]
    outputs: tuple[TensorSpec, ...]
    runs: list[EagerRun]
    work: Path
    programs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way: `trace` returns the raw graph, and whether the sizes noted in it can be relied on.

    again: the strategy repeats an export that was made before, to another opset; skipped where that export failed.
    translates: it uses the dynamo exporter's translations; skipped once operators without one were found.
    """

    name: str
    trace: Callable[[Subject], tuple[ir.Model, bool]]
    again: str = ""
    translates: bool = True


def trace(built: Built, dims: Dims, *, location: str, work: Path) -> Traced:
    """Return the first graph that holds, with every attempt.

    Raises ModelBlocked when operators have no translation, all of them listed, and TraceFailed when every strategy
    fails for other reasons.
    """
    attempts: list[Attempt] = []
    blockers: tuple[Blocker, ...] = ()
    candidates = [dims, dims.without_guesses()] if dims.guessed else [dims]
    for candidate in candidates:
        fixed = "" if candidate is dims else f", {' and '.join(sorted(dims.guessed))} fixed"
        subject = _subject(built, candidate, work)
        for strategy in STRATEGIES:
            if (strategy.again and strategy.again not in subject.programs) or (blockers and strategy.translates):
                continue
            started = time.perf_counter()
            outcome = _attempt(strategy, subject)
            attempts.append(Attempt(strategy.name + fixed, time.perf_counter() - started, outcome.reason))
            if outcome.model is not None:
                return Traced(outcome.model, tuple(attempts))
            blockers = blockers or outcome.blockers
        if blockers:
            break
    if blockers:
        raise ModelBlocked(
            "The ONNX exporter",
            blockers,
            hint="Express these in other torch operators, or take them out of the module.",
        )
    listed = "\n".join(f"  {attempt.strategy}: {attempt.reason}" for attempt in attempts)
    raise TraceFailed(
        f"{location} could not be traced:\n{listed}",
        hint="Control flow and shapes that depend on values are the usual cause: mend the line named above, or fix "
        "the dimension by leaving it out of the dynamic shapes.",
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    model: ir.Model | None
    reason: str = ""
    blockers: tuple[Blocker, ...] = ()


def _attempt(strategy: Strategy, subject: Subject) -> _Outcome:
    """Return the finished graph of one strategy, or why there is none."""
    import torch

    try:
        with torch.random.fork_rng(), torch.no_grad(), quiet():
            torch.manual_seed(0)
            raw, reliable = strategy.trace(subject)
            if not reliable and subject.dims.sizes and len(subject.runs) == 1:
                return _Outcome(None, f"nothing shows that {' and '.join(subject.dims.sizes)} can vary: {_REFUSED}")
            model = finished_graph(raw, subject, reliable=reliable)
            wrong = disagreement(model, subject)
    except Exception as error:
        return _Outcome(None, reason_of(error), unsupported_operators(subject, error))
    return _Outcome(None, wrong) if wrong else _Outcome(model)


def _subject(built: Built, dims: Dims, work: Path) -> Subject:
    runs = eager_runs(built.module, dims)
    tensors = dims.tensors_at(runs[0][0])
    return Subject(
        flat=flat_module(built.module, dims.sample),
        dims=dims,
        tensors=tuple(tensors.values()),
        outputs=output_specs(dims, runs),
        runs=runs,
        work=work,
    )


STRATEGIES: tuple[Strategy, ...] = (
    Strategy("torch.export", partial(traced_by_dynamo, key="export", strict=False, declare=True, opset=OPSET)),
    Strategy(
        f"torch.export, opset {PLAIN_OPSET}",
        partial(traced_by_dynamo, key="export", strict=False, declare=True, opset=PLAIN_OPSET),
        again="export",
    ),
    Strategy(
        "torch.export, sizes relaxed",
        partial(traced_by_dynamo, key="relaxed", strict=False, declare=False, opset=OPSET),
    ),
    Strategy("torch.export strict", partial(traced_by_dynamo, key="strict", strict=True, declare=True, opset=OPSET)),
    Strategy("TorchScript", traced_by_script, translates=False),
)
