"""`graphwright sensitivity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from exporter.cli.output import Output, json_option

if TYPE_CHECKING:
    from exporter.layer_sensitivity import SensitivityReport


@click.command(name="sensitivity")
@click.argument("source", metavar="MODEL")
@click.option("--calibration", help="Real inputs: half of them calibrate, a few of the others are run.")
@click.option("--target", default="onnxruntime", show_default=True, help="Whose int8: name or name:key=value,...")
@click.option("--samples", type=click.IntRange(min=1), default=4, show_default=True, help="Batches to run at most.")
@click.option("--quantize", metavar="PASS", help="The int8 pass with options: 'quantize-static{smooth=false}'.")
@click.option("--ranges", metavar="METHOD", help="Activation ranges, by a method of `build --ranges`.  [default: mse]")
@click.option("--pipeline", help="Passes to run instead of the default ones.")
@click.option("--padding-mask", help="Input [batch, sequence] whose zeros mark padding: not compared there.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@json_option
def command(
    source: str,
    calibration: str | None,
    target: str,
    samples: int,
    quantize: str | None,
    ranges: str | None,
    pipeline: str | None,
    padding_mask: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Show what each operator of MODEL costs in accuracy when it alone is int8: the outputs' error on real inputs.

    Nothing is built. Names of the table go into --quantize 'quantize-static{keep=[name,...]}', which keeps them in
    float; 'graphwright build --precision auto' chooses them by itself.
    """
    from exporter.layer_sensitivity import sensitivity

    output = Output(as_json)
    report = sensitivity(
        source,
        calibration=calibration,
        target=target,
        samples=samples,
        quantize=quantize,
        ranges=ranges,
        pipeline=pipeline,
        padding_mask=padding_mask,
        threads=threads,
        progress=output.progress(),
    )
    output.data(_json(report), lambda: _print(report))


def _json(report: SensitivityReport) -> object:
    from exporter.report.json import plain

    return plain(report)


def _print(report: SensitivityReport) -> None:
    from exporter.report.search import print_sensitivity

    print_sensitivity(report)
