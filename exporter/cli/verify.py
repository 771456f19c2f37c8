"""`graphwright verify`."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli.output import Output, json_option


@click.command(name="verify")
@click.argument("artifact_dir", type=click.Path(path_type=Path))
@click.option(
    "--against", "source", required=True, help="The original: file.py:function, package.module:function, .onnx."
)
@click.option("--samples", help="Held-out inputs; by default the example that comes with the original.")
@click.option("--gate", "gates", multiple=True, help="name=value, int8:name=value or TARGET:name=value; repeatable.")
@click.option("--waive", multiple=True, help="execution or execution:TARGET: may stay not run.")
@click.option("--padding-mask", help="Input [batch, sequence] whose zeros mark padding: not compared there.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for the original and every artifact.")
@click.option(
    "--report", "report_dir", type=click.Path(path_type=Path), help="Also write report.{html,json}, junit.xml here."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    artifact_dir: Path,
    source: str,
    samples: str | None,
    gates: tuple[str, ...],
    waive: tuple[str, ...],
    padding_mask: str | None,
    threads: int | None,
    report_dir: Path | None,
    as_json: bool,
) -> None:
    """Check the artifacts in ARTIFACT_DIR (one artifact's folder, or a whole build) against the original."""
    from exporter.verification import verify

    output = Output(as_json)
    report = verify(
        artifact_dir,
        against=source,
        samples=samples,
        gates=gates,
        waive=waive,
        padding_mask=padding_mask,
        threads=threads,
        progress=output.progress(),
    )
    if report_dir is not None:
        from exporter.report import write_reports

        write_reports(report, report_dir)
    output.report(report)
    ctx.exit(int(report.exit_code))
