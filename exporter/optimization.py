"""Rewrite an ONNX file by passes, and say what each pass did."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.recipe import TargetRequest, target_from_text
from exporter.results import PipelineReport
from passes.base import Context, PassResult
from passes.capabilities import PORTABLE, Capabilities
from passes.catalogue import default_pipeline
from passes.check import CheckNumerics, CheckReport
from passes.collection import paused
from passes.errors import BadModel, ModelBlocked, UsageError
from passes.observers import CheckStructure, Dump, Observer, PrintAfter, Statistics, count_nodes
from passes.pipeline import Pipeline
from passes.serialization import load_model, save_model

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.report.progress import Progress
    from passes.base import Pass
    from passes.bisect import Localization
    from targets.base import BuildOptions, Target

_QUIET_SECONDS = 1.0
"""Work shorter than this shows no progress."""


@dataclass(frozen=True, slots=True)
class Debugging:
    """How to watch a pipeline.

    progress: told of each pass once the work has taken a second.

    check: run the graph before and after each pass on generated inputs; stop at the first pass that changes a result.
    After a pass that lowers precision the graph must run, and later passes are compared with what it gives then, within
    the tolerance of the lowered precision.
    limit: stop after this many rewrites. print_after: names of passes ("all" for every one) to print the graph after.
    """

    check: bool = False
    limit: int | None = None
    print_after: tuple[str, ...] = ()
    dump_dir: Path | None = None
    write: Callable[[str], object] = print
    progress: Progress | None = None


@dataclass
class _Told(Observer):
    """Tells a progress display of each pass."""

    progress: Progress
    passes: int
    _started: float = 0.0
    _done: int = 0
    _is_shown: bool = False

    def before(self, step: Pass, model: ir.Model) -> None:
        self._started = self._started or time.monotonic()
        if not self._is_shown and time.monotonic() - self._started > _QUIET_SECONDS:
            self.progress.stage("passes", total=max(self.passes, self._done))
            self.progress.advance(self._done)
            self._is_shown = True

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        self._done += 1
        if self._is_shown:
            self.progress.advance()


def run_pipeline(
    stage: str,
    model: ir.Model,
    *,
    pipeline: Pipeline,
    context: Context | None = None,
    debugging: Debugging | None = None,
    is_consumed: bool = False,
) -> tuple[ir.Model, PipelineReport]:
    """Return a rewritten copy of `model` and the report of every pass that ran; `stage` names it in reports.

    `is_consumed` rewrites `model` itself, for a caller that has no further use for it.
    """
    debugging = debugging or Debugging()
    statistics = Statistics()
    nodes_before = count_nodes(model)
    started = time.perf_counter()
    observers = _observers(debugging, pipeline)
    rewritten, results = pipeline.run(
        model,
        context=context,
        observers=[statistics, *observers],
        limit=debugging.limit,
        is_consumed=is_consumed,
    )
    report = PipelineReport(
        stage=stage,
        pipeline=str(pipeline),
        statistics=tuple(statistics.rows),
        results=results,
        nodes_before=nodes_before,
        nodes_after=count_nodes(rewritten),
        seconds=time.perf_counter() - started,
        check=_check_report(observers),
    )
    return rewritten, report


def _check_report(observers: Sequence[Observer]) -> CheckReport | None:
    report = next((observer.report() for observer in observers if isinstance(observer, CheckNumerics)), None)
    invalid = next((observer.input_problem for observer in observers if isinstance(observer, CheckStructure)), "")
    return None if report is None else replace(report, invalid=invalid)


def _observers(debugging: Debugging, pipeline: Pipeline) -> Sequence[Observer]:
    observers: list[Observer] = []
    if debugging.print_after:
        _check_pass_names(debugging.print_after, pipeline)
        observers.append(PrintAfter(debugging.print_after, debugging.write))
    if debugging.dump_dir is not None:
        observers.append(Dump(debugging.dump_dir))
    if debugging.check:
        text = str(pipeline)
        observers += [CheckStructure(text), CheckNumerics(text)]
    if debugging.progress is not None:
        observers.append(_Told(debugging.progress, len(pipeline.flat())))
    return observers


def _check_pass_names(names: Sequence[str], pipeline: Pipeline) -> None:
    inside = {step.name for step in pipeline.flat()}
    for name in names:
        if name != "all" and name not in inside:
            raise UsageError(
                f"--print-after names '{name}', which is not in the pipeline.",
                hint=f"It has: {', '.join(sorted(inside))}; or 'all'.",
            )


@paused()
def optimize(
    source: str | Path,
    out: str | Path | None = None,
    *,
    pipeline: str | None = None,
    target: TargetRequest | str | None = None,
    debugging: Debugging | None = None,
) -> PipelineReport:
    """Write the optimized `source` to `out` (weights in `out`.data) and return what each pass did.

    `pipeline` is pass text, by default graphwright's own; `target`, a request or its text, appends that target's
    legalisation. Without `out` nothing is written, which only a check makes sense of. Raises BadModel for a file that
    can't be read, ModelBlocked when the target cannot take the result, UsageError for the rest.
    """
    source = Path(source).expanduser()
    out = None if out is None else Path(out)
    if out is None and not (debugging is not None and debugging.check):
        raise UsageError("There is no output file.", hint="Add -o optimized.onnx, or --check to only check the passes.")
    if out is not None:
        _check_out(out)
    plan = _plan(pipeline, target)
    model = _loaded(source)
    size_bytes = _size_bytes(source, model)
    rewritten, report = run_pipeline(
        "optimize",
        model,
        pipeline=plan.pipeline,
        context=Context(capabilities=plan.capabilities),
        debugging=debugging,
        is_consumed=True,
    )
    if plan.target is not None:
        blockers = plan.target.blockers(rewritten, plan.options)
        if blockers:
            raise ModelBlocked(plan.target.name, blockers)
    if out is None:
        return report
    started = time.perf_counter()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {out.parent} cannot be made: {error.strerror}.") from error
    save_model(rewritten, out)
    data = out.with_name(out.name + ".data")
    return replace(
        report,
        seconds=report.seconds + time.perf_counter() - started,
        size_before_bytes=size_bytes,
        size_after_bytes=sum(file.stat().st_size for file in (out, data) if file.is_file()),
    )


def localize_passes(
    source: str | Path,
    *,
    pipeline: str | None = None,
    target: TargetRequest | str | None = None,
    progress: Progress | None = None,
) -> Localization:
    """Return the single rewrite after which the ONNX file `source` gives other results or does not run.

    `pipeline` and `target` as in `optimize`. Raises BadModel for a file that can't be read or run as it is, UsageError
    for a pipeline that is meant to move results.
    """
    from passes.bisect import find_culprit

    plan = _plan(pipeline, target)
    model = _loaded(Path(source).expanduser())
    if progress is not None:
        progress.stage("bisecting rewrites")
    advance = (lambda _: progress.advance()) if progress is not None else (lambda _: None)
    return find_culprit(model, plan.pipeline, context=Context(capabilities=plan.capabilities), advance=advance)


def _check_out(out: Path) -> None:
    if out.suffix != ".onnx":
        raise UsageError(f"The output {out} must be a file that ends in .onnx.", hint="For example: -o optimized.onnx")
    if _is_folder(out):
        raise UsageError(f"The output {out} is a folder.", hint=f"For example: -o {out / 'optimized.onnx'}")


def _loaded(source: Path) -> ir.Model:
    if _is_folder(source):
        raise BadModel(f"The model {source} is a folder.", hint="Give the .onnx file in it.")
    return load_model(source)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise UsageError(f"The path {path} cannot be used: {error.strerror}.", hint="Give another path.") from error


@dataclass(frozen=True, slots=True)
class _Plan:
    """The passes to run, the facts that they read, and the target that takes the result."""

    pipeline: Pipeline
    capabilities: Capabilities
    target: Target | None
    options: BuildOptions


def _plan(pipeline: str | None, target: TargetRequest | str | None) -> _Plan:
    from passes.parse import pipeline_from_text
    from targets.base import BuildOptions

    steps = default_pipeline() if pipeline is None else pipeline_from_text(pipeline)
    if target is None:
        return _Plan(steps, PORTABLE, None, BuildOptions())
    from targets.registry import get_target

    request = target_from_text(target) if isinstance(target, str) else target
    runtime, options = get_target(request.name), BuildOptions(settings=request.settings)
    runtime.check(options)
    return _Plan(steps + runtime.pipeline(options), runtime.capabilities(options), runtime, options)


def _size_bytes(path: Path, model: ir.Model) -> int:
    """Return the size of a model's file and of the files that its weights lie in."""
    import onnx_ir as ir

    files = {path} | {
        Path(value.const_value.path)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    return sum(file.stat().st_size for file in files)
