"""`graphwright localize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.output import Output, json_option

if TYPE_CHECKING:
    from passes.bisect import Localization


@click.command(name="localize")
@click.argument("source", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--passes", is_flag=True, help="Look for the one rewrite of a pipeline that breaks the graph.")
@click.option("--pipeline", help="Passes to run instead of the default ones.")
@click.option("--target", help="Also legalise for this target: name or name:key=value,...")
@click.option("--print", "print_", is_flag=True, help="Also print the graph around the rewrite, before and after it.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    source: Path,
    passes: bool,
    pipeline: str | None,
    target: str | None,
    print_: bool,
    as_json: bool,
) -> None:
    """Find the single rewrite after which the ONNX file MODEL gives other results, or does not run.

    The pipeline is run to different numbers of rewrites, by halves, and compared with the untouched graph on generated
    inputs. Exit code 3 when a culprit is found, 0 when all rewrites keep the result.
    """
    from exporter.optimization import localize_passes
    from exporter.report.progress import make_progress
    from passes.errors import ExitCode, UsageError

    if not passes:
        raise UsageError("localize needs to know what to look through.", hint="Add --passes.")
    output = Output(as_json)
    progress = make_progress(quiet=as_json or not sys.stderr.isatty())
    with progress:
        found = localize_passes(source, pipeline=pipeline, target=target, progress=progress)
    output.data(_json(found, str(source)), lambda: _print(found, source, with_changes=print_))
    context.exit(int(ExitCode.ACCURACY if found.culprit is not None else ExitCode.OK))


def _json(found: Localization, source: str) -> dict[str, object]:
    from dataclasses import asdict

    return {"model": source, **asdict(found)}


def _print(found: Localization, source: Path, *, with_changes: bool) -> None:
    culprit = found.culprit
    if culprit is None:
        click.echo(
            f"All {found.rewrites} rewrites keep the results of {source} on {found.sets} sets of inputs "
            f"({found.runs} runs)."
        )
        return
    where = f", rule '{culprit.rule}', at '{culprit.node}'" if culprit.node else ""
    click.echo(f"The pass '{culprit.name}'{where} breaks the graph: rewrite {culprit.limit} of {found.rewrites}.")
    click.echo(f"  {culprit.problem}")
    click.echo(f"  found in {found.runs} runs; replay with:")
    click.echo(f"  graphwright optimize {source} -o after.onnx --pipeline '{culprit.pipeline}' --limit {culprit.limit}")
    if with_changes and culprit.changes:
        click.echo(culprit.changes)
