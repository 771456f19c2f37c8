"""The ways of tracing a torch module, tried in order until one gives a graph that also holds at other sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.results import Attempt
from exporter.sources.base import Traced
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

SCRIPT_OPSET = 17
"""What the TorchScript exporter is asked for: LayerNormalization, and nothing that it only half knows."""


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
    """

    name: str
    trace: Callable[[Subject], tuple[ir.Model, bool]]
    again: str = ""


def trace(built: Built, dims: Dims, *, location: str, work: Path) -> Traced:
    """Return the first graph that holds, with every attempt.

    Raises ModelBlocked when operators have no translation, all of them listed, and TraceFailed when every strategy
    fails for other reasons.
    """
    import torch

    attempts: list[Attempt] = []
    blockers: dict[str, Blocker] = {}
    candidates = [dims, dims.without_guesses()] if dims.guessed else [dims]
    for candidate in candidates:
        fixed = "" if candidate is dims else f", {' and '.join(sorted(dims.guessed))} fixed"
        subject = _subject(built, candidate, work)
        for strategy in STRATEGIES:
            if strategy.again and strategy.again not in subject.programs:
                continue
            started = time.perf_counter()
            try:
                with torch.random.fork_rng(), torch.no_grad(), quiet():
                    torch.manual_seed(0)
                    raw, reliable = strategy.trace(subject)
                    model = finished_graph(raw, subject, reliable=reliable)
                    wrong = disagreement(model, subject)
            except Exception as error:
                wrong = reason_of(error)
                blockers |= {blocker.node: blocker for blocker in unsupported_operators(subject, error)}
            attempts.append(Attempt(strategy.name + fixed, time.perf_counter() - started, wrong))
            if not wrong:
                return Traced(model, tuple(attempts))
    if blockers:
        raise ModelBlocked(
            "The ONNX exporter",
            tuple(blockers.values()),
            hint="Express these in other torch operators, or take them out of the module.",
        )
    listed = "\n".join(f"  {attempt.strategy}: {attempt.reason}" for attempt in attempts)
    raise TraceFailed(
        f"{location} could not be traced:\n{listed}",
        hint="Control flow and shapes that depend on values are the usual cause: mend the line named above, or fix "
        "the dimension by leaving it out of the dynamic shapes.",
    )


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


def _exported(subject: Subject, *, key: str, strict: bool, declare: bool) -> Any:
    """Return torch's exported program; kept, so that a second opset need not export again."""
    import torch

    def exported(shapes: Any) -> Any:
        return torch.export.export(
            subject.flat,
            subject.tensors,
            dynamic_shapes=shapes,
            strict=strict,
            prefer_deferred_runtime_asserts_over_guards=True,
        )

    if key not in subject.programs:
        symbols = {dim: torch.export.Dim(f"dim{index}") for index, dim in enumerate(subject.dims.sizes)}
        shapes = tuple(
            {axis: symbols[dim] if declare else torch.export.Dim.AUTO for axis, dim in axes.items()}
            for axes in (subject.dims.dynamic.get(name, {}) for name in subject.dims.sample.tensors)
        )
        if not subject.dims.sizes:
            subject.programs[key] = exported(None)
        else:
            try:
                subject.programs[key] = exported({"tensors": shapes})
            except torch._dynamo.exc.UserError as error:
                subject.programs[key] = exported({"tensors": _narrowed(shapes, error)})
    return subject.programs[key]


def _narrowed(shapes: Any, error: Exception) -> Any:
    """Return the shapes with the ranges that torch asks for, as where positions end at 512; raises `error` otherwise.

    A dimension that torch would fix at one size is no longer dynamic: that is a failure, never a silent narrowing.
    """
    from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

    try:
        narrowed = refine_dynamic_shapes_from_suggested_fixes(str(error), {"tensors": shapes})["tensors"]
    except Exception:
        raise error from None
    dims = [dim for axes in narrowed for dim in axes.values()]
    if any(isinstance(dim, int) or type(dim).__name__ not in ("Dim", "_DimHint", "_DerivedDim") for dim in dims):
        raise error from None
    return narrowed


def _dynamo(subject: Subject, *, key: str, strict: bool, declare: bool, opset: int) -> tuple[ir.Model, bool]:
    import torch

    program = torch.onnx.export(
        _exported(subject, key=key, strict=strict, declare=declare),
        dynamo=True,
        opset_version=opset,
        input_names=[spec.name for spec in subject.dims.inputs],
        output_names=[spec.name for spec in subject.outputs],
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: ir.Model = program.model
    return model, declare


def _script(subject: Subject) -> tuple[ir.Model, bool]:
    import onnx_ir as ir
    import torch

    folder = subject.work / "script"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "traced.onnx"
    dynamic: dict[str, Mapping[int, str]] = {name: dict(axes) for name, axes in subject.dims.dynamic.items()}
    for spec in subject.outputs:
        axes = {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        dynamic |= {spec.name: axes} if axes else {}
    torch.onnx.export(
        subject.flat,
        subject.tensors,
        str(file),
        dynamo=False,
        opset_version=SCRIPT_OPSET,
        input_names=[spec.name for spec in subject.dims.inputs],
        output_names=[spec.name for spec in subject.outputs],
        dynamic_axes=dynamic,
        do_constant_folding=True,
    )
    return ir.load(file), False


STRATEGIES: tuple[Strategy, ...] = (
    Strategy("torch.export", lambda s: _dynamo(s, key="export", strict=False, declare=True, opset=OPSET)),
    Strategy(
        f"torch.export, opset {PLAIN_OPSET}",
        lambda s: _dynamo(s, key="export", strict=False, declare=True, opset=PLAIN_OPSET),
        again="export",
    ),
    Strategy(
        "torch.export, sizes relaxed", lambda s: _dynamo(s, key="relaxed", strict=False, declare=False, opset=OPSET)
    ),
    Strategy("torch.export strict", lambda s: _dynamo(s, key="strict", strict=True, declare=True, opset=OPSET)),
    Strategy("TorchScript", _script),
)
