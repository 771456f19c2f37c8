"""SQNR on held-out samples of int8 artifacts whose activation ranges were chosen by each method.

    python tests/benchmarks/quantization/range_accuracy.py minilm=minilm.onnx=calibration/=held_out/ ... \\
        --targets onnxruntime,openvino

Each model is NAME=SOURCE=CALIBRATION=HELD_OUT; a source is what `graphwright build` takes. All builds of a model share
everything but the method. The figure is the worst output's SQNR against the original, in dB; nothing is timed, so a
busy machine gives the same table.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import exporter
from exporter.recipe import Recipe, TargetRequest
from passes.quantize.range_methods import RANGE_METHODS, RangeMethod


def sqnr_db(source: str, calibration: str, held_out: str, targets: list[str], method: RangeMethod) -> list[float]:
    """Return the SQNR of each target's int8 artifact; NaN for one that could not be built."""
    recipe = Recipe(
        source=source,
        samples=held_out,
        calibration=calibration,
        targets=tuple(TargetRequest(target) for target in targets),
        precisions=("int8",),
        ranges=method,
        speed_seconds=0.0,
        baselines=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = exporter.build(recipe, Path(folder) / "out")
    found: list[float] = []
    for artifact in report.artifacts:
        outputs = artifact.accuracy.outputs if artifact.accuracy is not None else ()
        found.append(min((output.sqnr_db for output in outputs), default=math.nan))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=SOURCE=CALIBRATION=HELD_OUT")
    parser.add_argument("--targets", default="onnxruntime")
    parser.add_argument("--methods", default=",".join(RANGE_METHODS))
    arguments = parser.parse_args()
    targets = arguments.targets.split(",")
    methods = [method for method in RANGE_METHODS if method in arguments.methods.split(",")]
    lines = [f"| model | target | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    for text in arguments.models:
        name, source, calibration, held_out = text.split("=")
        columns = []
        for method in methods:
            columns.append(sqnr_db(source, calibration, held_out, targets, method))
            print(name, method, columns[-1], file=sys.stderr, flush=True)
        for target, figures in zip(targets, zip(*columns, strict=True), strict=True):
            lines.append(f"| {name} | {target} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
