"""`graphwright build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.output import Output, json_option
from passes.errors import UsageError

if TYPE_CHECKING:
    from exporter.recipe import Recipe


_PRECISIONS = "fp32, fp16, bf16, fp8, int8, int8-dynamic, int8-weight-only, int4-weight-only, auto; repeatable or a,b."


@click.command(name="build")
@click.argument("source", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option("--samples", help="Held-out inputs: an .npz, a folder of them, or file.py:function yielding dicts.")
@click.option("--calibration", help="Inputs to calibrate int8 and fp8 with; same forms, other data than --samples.")
@click.option("--target", "targets", multiple=True, help="name or name:key=value,...  May be repeated.")
@click.option("--precision", "precisions", multiple=True, help=_PRECISIONS)
@click.option("--gate", "gates", multiple=True, help="name=value, int8:name=value or TARGET:name=value; repeatable.")
@click.option("--waive", "waive", multiple=True, help="execution or execution:TARGET: may stay not run.")
@click.option("--pipeline", help="Passes to run instead of the default ones.")
@click.option("--quantize", metavar="PASS", help="The int8 pass with options: 'quantize-static{smooth=false}'.")
@click.option("--weights", metavar="PASS", help="The weight-only pass with options: 'quantize-weights{group=32}'.")
@click.option(
    "--ranges",
    metavar="METHOD",
    help="Activation ranges: mse, minmax, moving-average, percentile, entropy or auto.  [default: mse]",
)
@click.option(
    "--calibration-cache", metavar="FILE", help="Keep the ranges here; made anew when what they depend on changes."
)
@click.option("--dim", "dims", multiple=True, help="name=least..usual..greatest of a named dimension; repeatable.")
@click.option("--padding-mask", help="Input [batch, sequence] whose zeros mark padding: not compared there.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for the original and every artifact.")
@click.option("--speed-seconds", type=click.FloatRange(min=0), help="Time to measure at each input shape; 0: none.")
@click.option("--baselines/--no-baselines", default=None, help="Also time torch.compile.  [default: on]")
@click.option(
    "--trials", type=click.IntRange(min=1), help="Candidates that auto builds at most, a target.  [default: 24]"
)
@click.option("--search-cache", help="Folder in which auto keeps what it found, to go on from.")
@click.option("--time-limit", "time_limit_s", type=click.FloatRange(min=1), help="Seconds for one artifact's builder.")
@click.option("--recipe", "recipe_path", type=click.Path(path_type=Path), help="TOML file; flags override it.")
@json_option
def command(source: str | None, out: Path, recipe_path: Path | None, as_json: bool, **flags: Any) -> None:
    """Trace SOURCE, optimize, quantize and lower it, and verify every artifact against the original.

    SOURCE is file.py:function or package.module:function (a builder that returns a torch module, or a module and its
    sample inputs), or an .onnx file.
    """
    from exporter.building import build

    recipe = _recipe(source, recipe_path, flags)
    output = Output(as_json)
    report = build(recipe, out, progress=output.progress())
    output.report(report)
    click.get_current_context().exit(int(report.exit_code))


def _recipe(source: str | None, path: Path | None, flags: dict[str, Any]) -> Recipe:
    from exporter.recipe import (
        Recipe,
        dim_from_text,
        recipe_from_toml,
        with_overrides,
    )

    if path is None and source is None:
        raise UsageError(
            "Neither SOURCE nor --recipe is given.", hint="For example: graphwright build model.onnx -o out"
        )
    recipe = recipe_from_toml(path) if path is not None else Recipe(source=source or "")
    overrides = {key: value for key, value in flags.items() if value not in (None, ())}
    if "dims" in overrides:
        overrides["dims"] = {**recipe.dims, **dict(map(dim_from_text, overrides["dims"]))}
    if source is not None:
        overrides["source"] = source
    return with_overrides(recipe, overrides)
