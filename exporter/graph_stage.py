"""A graph on the way to an artifact, run as it stands and compared with the original."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.evaluation.accuracy import compare_runs
from exporter.evaluation.tolerance import GateSpec
from exporter.original import Original
from exporter.report.progress import Progress
from exporter.results import StageAccuracy, Verdict
from exporter.sources.onnx_runner import open_onnx
from passes.errors import ExitCode, GraphwrightError
from passes.precision.emulate import has_bfloat16, rounded_to_bfloat16
from passes.serialization import save_model

if TYPE_CHECKING:
    import onnx_ir as ir


def graph_accuracy(
    model: ir.Model,
    original: Original,
    *,
    stage: str,
    precision: str,
    gates: Sequence[GateSpec],
    work: Path,
    progress: Progress,
) -> StageAccuracy:
    """Return how `model` does on the held-out samples, in ONNX Runtime with its own optimizations off.

    A bfloat16 graph, which has no kernels there, is run in float32 with each result rounded to bfloat16.
    """
    progress.stage(f"verify {stage}", len(original.references))
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        path = folder / "model.onnx"
        save_model(rounded_to_bfloat16(model) if has_bfloat16(model) else model, path)
        with open_onnx(path, threads=original.threads) as runner:
            return compare_runs(
                original.references,
                runner,
                stage=stage,
                precision=precision,
                gates=gates,
                padding=original.padding,
                advance=progress.advance,
            )
    except GraphwrightError as error:
        verdict = Verdict.NOT_RUN if error.exit_code is ExitCode.NOT_RUN else Verdict.FAILED
        return StageAccuracy(stage, precision, verdict, reason=error.one_line)
    finally:
        progress.done()
        shutil.rmtree(folder, ignore_errors=True)
