"""`graphwright optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.output import Output, json_option

if TYPE_CHECKING:
    from exporter.results import PipelineReport


@click.command(name="optimize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write, ending in .onnx.")
@click.option("--pipeline", help="Passes to run instead of the default ones: 'fold-constants,fuse-gelu'.")
@click.option("--target", help="Also legalise for this target: name or name:key=value,...")
@click.option("--check", is_flag=True, help="Run before and after each pass; stop at the first that changes a result.")
@click.option("--limit", type=click.IntRange(min=0), help="Stop after N rewrites, for bisection.")
@click.option(
    "--print-after", multiple=True, metavar="PASS", help="Print the graph after this pass; 'all' for every one."
)
@click.option("--dump-dir", type=click.Path(path_type=Path), help="Save the graph after each pass that changed it.")
@click.option("--why", is_flag=True, help="Also list the near matches that were refused, with the reason.")
@json_option
def command(
    source: Path,
    out: Path,
    pipeline: str | None,
    target: str | None,
    check: bool,
    limit: int | None,
    print_after: tuple[str, ...],
    dump_dir: Path | None,
    why: bool,
    as_json: bool,
) -> None:
    """Rewrite the ONNX file SOURCE by passes and print what each pass did."""
    from exporter.optimization import Debugging, optimize
    from exporter.recipe import target_from_text

    debugging = Debugging(check, limit, print_after, dump_dir, write=lambda text: click.echo(text, err=as_json))
    report = optimize(
        source,
        out,
        pipeline=pipeline,
        target=target_from_text(target) if target else None,
        debugging=debugging,
    )
    Output(as_json).data(_json(report, out), lambda: _print(report, out, why=why))


def _json(report: PipelineReport, out: Path) -> dict[str, object]:
    from dataclasses import asdict

    return {"out": str(out), **asdict(report)}


def _print(report: PipelineReport, out: Path, *, why: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table("pass", "applied", "refused", "nodes", "ms")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.statistics:
        if row.applied or row.refused:
            nodes = f"{row.nodes_before} -> {row.nodes_after}" if row.nodes_after != row.nodes_before else ""
            table.add_row(escape(row.name), str(row.applied), str(row.refused), nodes, f"{row.seconds * 1e3:.0f}")
    console.print(table)
    if why:
        for result in report.results:
            for event in result.refused:
                console.print(f"refused {escape(event.rule)} at {escape(event.node)}: {escape(event.reason)}")
    refused = sum(row.refused for row in report.statistics)
    hint = f" ({refused} near matches refused: --why lists them)" if refused and not why else ""
    console.print(
        f"{report.nodes_before} -> {report.nodes_after} nodes in {report.seconds:.2f} s: {escape(str(out))}{hint}"
    )
