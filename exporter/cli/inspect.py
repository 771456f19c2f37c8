"""`graphwright inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.output import Output, json_option
from passes.errors import ExitCode

if TYPE_CHECKING:
    from exporter.inspection import ArtifactSummary, ModelSummary


@click.command(name="inspect")
@click.argument("path", metavar="MODEL|ARTIFACT_DIR", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, help="Say whether this target takes the model; repeatable.")
@json_option
@click.pass_context
def command(ctx: click.Context, path: Path, targets: tuple[str, ...], as_json: bool) -> None:
    """Show what an .onnx file or built artifacts hold. With --target, exit with 5 when one cannot take the model."""
    from dataclasses import asdict

    from exporter.inspection import ModelSummary, inspect
    from exporter.recipe import target_from_text

    found = inspect(path, targets=tuple(map(target_from_text, targets)))
    output = Output(as_json)
    if isinstance(found, ModelSummary):
        output.data(asdict(found), lambda: _print_model(found))
        if any(fit.blockers for fit in found.fits):
            ctx.exit(int(ExitCode.BLOCKED))
    else:
        output.data({"artifacts": [asdict(each) for each in found]}, lambda: _print_artifacts(found))


def _print_model(summary: ModelSummary) -> None:
    click.echo(f"{summary.path}: {summary.nodes} nodes, {summary.weights} weights, {summary.weight_bytes:,} bytes")
    click.echo("opsets    " + ", ".join(f"{domain or 'ai.onnx'} {number}" for domain, number in summary.opsets.items()))
    for title, specs in (("input", summary.inputs), ("output", summary.outputs)):
        for spec in specs:
            is_ranked = spec.name not in summary.unranked
            click.echo(f"{title:<10}{spec if is_ranked else f'{spec.name}: {spec.dtype}, of any rank'}")
    click.echo("weights   " + ", ".join(f"{kind} {size:,} bytes" for kind, size in summary.weight_types.items()))
    click.echo("operators " + ", ".join(f"{name} {count}" for name, count in summary.operators.items()))
    for fit in summary.fits:
        if not fit.blockers:
            click.secho(f"{fit.target}: takes it, {fit.nodes_after} nodes after the passes", fg="green")
            continue
        click.secho(f"{fit.target}: cannot take it, {len(fit.blockers)} blocker(s)", fg="red")
        for blocker in fit.blockers:
            click.echo(f"  {blocker}")


def _print_artifacts(found: tuple[ArtifactSummary, ...]) -> None:
    for summary in found:
        manifest = summary.manifest
        click.secho(f"{summary.path}: {manifest.target} {manifest.precision}", bold=True)
        for title, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
            for spec in specs:
                click.echo(f"  {title:<10}{spec}")
        rows = {
            "settings": manifest.settings,
            "versions": manifest.versions,
            "verdicts": manifest.verdicts,
        }
        for title, row in rows.items():
            click.echo(f"  {title:<10}" + ", ".join(f"{key}={value}" for key, value in row.items()))
        click.echo(f"  {'device':<10}{manifest.device}{'' if manifest.runs_here else ' (built ahead of time)'}")
        click.echo(f"  {'waived':<10}{', '.join(manifest.waived) or 'nothing'}")
        click.echo(f"  {'pipeline':<10}{manifest.pipeline}")
        click.echo(f"  {'files':<10}{len(manifest.files)}, unchanged since the build")
