"""`graphwright optimize`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.output import Output, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.results import PipelineReport
    from passes.base import PassResult
    from passes.check import CheckReport

_SHOWN_NODES = 20
_SHOWN_REASON = 160


@click.command(name="optimize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write, ending in .onnx.")
@click.option("--pipeline", help="Passes to run instead of the default ones: 'fold-constants,fuse-gelu'.")
@click.option("--target", help="Also legalise for this target: name or name:key=value,...")
@click.option(
    "--check",
    is_flag=True,
    help="Run before and after each pass; stop at the first that changes a result. Needs no -o.",
)
@click.option("--limit", type=click.IntRange(min=0), help="Stop after N rewrites, for bisection.")
@click.option(
    "--print-after", multiple=True, metavar="PASS", help="Print the graph after this pass; 'all' for every one."
)
@click.option("--dump-dir", type=click.Path(path_type=Path), help="Save the graph after each pass that changed it.")
@click.option("--why", is_flag=True, help="Also list the near matches that were refused, with the reason.")
@click.option("-v", "--verbose", is_flag=True, help="Also list the nodes that were rewritten.")
@json_option
def command(
    source: Path,
    out: Path | None,
    pipeline: str | None,
    target: str | None,
    check: bool,
    limit: int | None,
    print_after: tuple[str, ...],
    dump_dir: Path | None,
    why: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Rewrite the ONNX file SOURCE by passes and print what each pass did."""
    from exporter.optimization import Debugging, optimize
    from exporter.report.progress import make_progress

    progress = make_progress(quiet=as_json or not sys.stderr.isatty())
    with progress:
        debugging = Debugging(
            check=check,
            limit=limit,
            print_after=print_after,
            dump_dir=dump_dir,
            write=lambda text: click.echo(text, err=as_json),
            progress=progress,
        )
        report = optimize(source, out, pipeline=pipeline, target=target, debugging=debugging)
    Output(as_json).data(_json(report, out), lambda: _print(report, out, why=why, verbose=verbose))


def _json(report: PipelineReport, out: Path | None) -> dict[str, object]:
    from dataclasses import asdict

    grouped = [
        {"pass": name, "rule": rule, "reason": reason, "count": count, "example": node}
        for name, rule, reason, count, node in refusals(report.results)
    ]
    return {"out": None if out is None else str(out), **asdict(report), "refusals": grouped}


def refusals(results: tuple[PassResult, ...]) -> Iterator[tuple[str, str, str, int, str]]:
    """Yield (pass, rule, reason, count, example node) for each kind of refusal, the most frequent first.

    Passes that run in rounds refuse the same node again and again: a node counts once. Reasons that differ in the
    names of their nodes and values alone are one kind; the example's reason is shown.
    """
    import re

    nodes: dict[tuple[str, str, str], dict[str, str]] = {}
    for result in results:
        for event in result.refused:
            kind = re.sub(r"'[^']*'|(?<=feeds ).*", "'...'", event.reason)
            nodes.setdefault((result.name, event.rule, kind), {}).setdefault(event.node, event.reason)
    for (name, rule, _), seen in sorted(nodes.items(), key=lambda item: -len(item[1])):
        example, reason = next(iter(seen.items()))
        yield name, rule, reason, len(seen), example


def _print(report: PipelineReport, out: Path | None, *, why: bool, verbose: bool) -> None:
    from rich.console import Console

    from exporter.report.wording import bytes_text, printable

    console = Console(highlight=False, markup=False, soft_wrap=True)
    _print_passes(console, report)
    if verbose:
        for result in report.results:
            for rule, count in Counter(event.rule for event in result.applied).items():
                rewritten = [event.node for event in result.applied if event.rule == rule]
                more = f" and {count - _SHOWN_NODES} more" if count > _SHOWN_NODES else ""
                console.print(printable(f"{result.name} {rule} at {', '.join(rewritten[:_SHOWN_NODES])}{more}"))
    if why:
        for name, rule, reason, count, node in refusals(report.results):
            times = f"{count} x " if count > 1 else ""
            what = name if rule == name else f"{name} {rule}"
            example = "for example at" if count > 1 else "at"
            shown = reason if len(reason) <= _SHOWN_REASON else reason[:_SHOWN_REASON] + "..."
            console.print(printable(f"refused {times}{what} {example} {node}: {shown}"))
    if report.check is not None:
        _print_check(console, report.check)
    refused = sum(row.refused for row in report.statistics)
    hint = f" ({refused} near matches refused: --why lists them)" if refused and not why else ""
    sizes = f", {bytes_text(report.size_before_bytes)} -> {bytes_text(report.size_after_bytes)}" if out else ""
    written = f": {out}" if out else "; nothing written"
    nodes = f"{report.nodes_before} -> {report.nodes_after} nodes"
    console.print(printable(f"{nodes}{sizes} in {report.seconds:.2f} s{written}{hint}"))


def _print_passes(console: object, report: PipelineReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    assert isinstance(console, Console)
    table = Table("pass", "applied", "refused", "nodes", "ms", "rules")
    for column in table.columns[1:5]:
        column.justify = "right"
    for row, result in zip(report.statistics, report.results, strict=False):
        if row.applied or row.refused:
            nodes = f"{row.nodes_before} -> {row.nodes_after}" if row.nodes_after != row.nodes_before else ""
            rules = Counter(event.rule for event in result.applied)
            named = ", ".join(f"{rule} {count}" for rule, count in rules.most_common(4) if rule != result.name)
            cells = (row.name, str(row.applied), str(row.refused), nodes, f"{row.seconds * 1e3:.0f}", named)
            table.add_row(*map(Text, cells))
    console.print(table)


def _print_check(console: object, check: CheckReport) -> None:
    from rich.console import Console

    from exporter.report.wording import printable

    assert isinstance(console, Console)
    console.print(f"checked on {check.sets} sets of generated inputs, ONNX Runtime's own optimizations off:")
    for value in check.inputs:
        shapes = ", ".join(f"[{','.join(map(str, shape))}]" for shape in value.shapes)
        console.print(printable(f"  {value.name}: {value.dtype}, {value.role}: {shapes}"))
    for text in check.not_run:
        console.print(printable(f"  not run before any pass: {text}"))
    if check.invalid:
        console.print(printable(f"  not valid before any pass, so not judged by the ONNX checker: {check.invalid}"))
    for row in check.passes:
        worst = f"worst difference {row.worst:.2g} at '{row.output}'" if row.worst else "no difference"
        note = f" ({row.note})" if row.note else ""
        console.print(printable(f"  {row.name}: {row.rewrites} rewrites, {worst}{note}"))
    console.print(
        f"all within atol={check.absolute:g} + rtol={check.relative:g}, relative to an output's greatest magnitude "
        f"where that is above 1; {check.seconds:.1f} s"
    )
