"""`graphwright bench`."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli.output import Output, json_option


@click.command(name="bench")
@click.argument("artifact_dir", type=click.Path(path_type=Path))
@click.option("--against", "source", help="The original to measure beside the artifacts.")
@click.option(
    "--samples", help="Inputs to time; by default the original's example, or generated ones of the manifest's shapes."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for the original and every artifact.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Time at each input shape."
)
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Also time torch.compile.")
@click.option("--gate", "gates", multiple=True, help="speedup=value: the least original/artifact ratio.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    artifact_dir: Path,
    source: str | None,
    samples: str | None,
    threads: int | None,
    seconds: float,
    baselines: bool,
    gates: tuple[str, ...],
    as_json: bool,
) -> None:
    """Time the artifacts in ARTIFACT_DIR in turn with each other and with the original, on the same inputs."""
    from exporter.benchmark import bench

    output = Output(as_json)
    report = bench(
        artifact_dir,
        against=source,
        samples=samples,
        threads=threads,
        seconds=seconds,
        baselines=baselines,
        gates=gates,
        progress=output.progress(),
    )
    output.report(report)
    ctx.exit(int(report.exit_code))
