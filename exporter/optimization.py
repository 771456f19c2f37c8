"""Rewrite an ONNX file by passes, and say what each pass did."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.recipe import TargetRequest, target_from_text
from exporter.results import PipelineReport
from passes.base import Context
from passes.capabilities import PORTABLE
from passes.catalogue import default_pipeline
from passes.errors import ModelBlocked, UsageError
from passes.observers import Dump, Observer, PrintAfter, Statistics, count_nodes
from passes.parse import pipeline_from_text
from passes.pipeline import Pipeline
from passes.serialization import load_model, save_model

if TYPE_CHECKING:
    import onnx_ir as ir


_LOSSY = frozenset({"convert-fp16", "convert-bf16", "quantize-static"})
"""Passes that are meant to move results."""


@dataclass(frozen=True, slots=True)
class Debugging:
    """How to watch a pipeline.

    check: run the graph before and after each pass on generated inputs; stop at the first pass that changes a result.
    After a pass that lowers precision the graph must run, and later passes are compared with what it gives then.
    limit: stop after this many rewrites. print_after: names of passes ("all" for every one) to print the graph after.
    """

    check: bool = False
    limit: int | None = None
    print_after: tuple[str, ...] = ()
    dump_dir: Path | None = None
    write: Callable[[str], object] = print


def run_pipeline(
    stage: str,
    model: ir.Model,
    *,
    pipeline: Pipeline,
    context: Context | None = None,
    debugging: Debugging | None = None,
) -> tuple[ir.Model, PipelineReport]:
    """Return a rewritten copy of `model` and the report of every pass that ran; `stage` names it in reports."""
    debugging = debugging or Debugging()
    statistics = Statistics()
    nodes_before = count_nodes(model)
    started = time.perf_counter()
    rewritten, results = pipeline.run(
        model,
        context=context,
        observers=[statistics, *_observers(debugging, pipeline)],
        limit=debugging.limit,
    )
    report = PipelineReport(
        stage=stage,
        pipeline=str(pipeline),
        statistics=tuple(statistics.rows),
        results=results,
        nodes_before=nodes_before,
        nodes_after=count_nodes(rewritten),
        seconds=time.perf_counter() - started,
    )
    return rewritten, report


def _observers(debugging: Debugging, pipeline: Pipeline) -> Sequence[Observer]:
    observers: list[Observer] = []
    if debugging.print_after:
        _check_pass_names(debugging.print_after, pipeline)
        observers.append(PrintAfter(debugging.print_after, debugging.write))
    if debugging.dump_dir is not None:
        observers.append(Dump(debugging.dump_dir))
    if debugging.check:
        from passes.check import CheckNumerics
        from passes.observers import CheckStructure

        text = str(pipeline)
        observers += [CheckStructure(text), CheckNumerics(text, skip=_LOSSY)]
    return observers


def _check_pass_names(names: Sequence[str], pipeline: Pipeline) -> None:
    inside = {step.name for step in pipeline.flat()}
    for name in names:
        if name != "all" and name not in inside:
            raise UsageError(
                f"--print-after names '{name}', which is not in the pipeline.",
                hint=f"It has: {', '.join(sorted(inside))}; or 'all'.",
            )


def optimize(
    source: str | Path,
    out: str | Path,
    *,
    pipeline: str | None = None,
    target: TargetRequest | str | None = None,
    debugging: Debugging | None = None,
) -> PipelineReport:
    """Write the optimized `source` to `out` (weights in `out`.data) and return what each pass did.

    `pipeline` is pass text, by default graphwright's own; `target`, a request or its text, appends that target's
    legalisation. Raises BadModel for a file that can't be read, ModelBlocked when the target cannot take the result,
    UsageError for the rest.
    """
    source, out = Path(source).expanduser(), Path(out)
    if out.is_dir() or out.suffix != ".onnx":
        raise UsageError(f"The output {out} must be a file that ends in .onnx.", hint="For example: -o optimized.onnx")
    steps = default_pipeline() if pipeline is None else pipeline_from_text(pipeline)
    capabilities = PORTABLE
    if target is not None:
        from targets.base import BuildOptions
        from targets.registry import get_target

        request = target_from_text(target) if isinstance(target, str) else target
        runtime, options = get_target(request.name), BuildOptions(settings=request.settings)
        runtime.check(options)
        capabilities = runtime.capabilities(options)
        steps = steps + runtime.pipeline(options)
    model = load_model(source)
    rewritten, report = run_pipeline(
        "optimize", model, pipeline=steps, context=Context(capabilities=capabilities), debugging=debugging
    )
    if target is not None:
        blockers = runtime.blockers(rewritten, options)
        if blockers:
            raise ModelBlocked(request.name, blockers)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {out.parent} cannot be made: {error.strerror}.") from error
    save_model(rewritten, out)
    return report
