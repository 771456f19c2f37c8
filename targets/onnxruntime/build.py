"""Writing an ONNX Runtime artifact: model.onnx with its weights, loaded once as proof."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.serialization import save_model
from targets.base import Artifact
from targets.isolation import run_isolated
from targets.manifest import Manifest, hashes_of, write_manifest
from targets.onnxruntime.fallbacks import fallbacks
from targets.onnxruntime.session import require_provider
from targets.onnxruntime.settings import PROVIDERS, Settings
from targets.planned import planned_int8, product_aliases
from targets.processor import processor_label
from targets.specs import model_inputs, model_outputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.base import BuildOptions

MODEL_FILE = "model.onnx"
# fp16 graphs load on a CPU, but nearly every operator runs in float32 between two casts.
_CPU_PRECISION_NOTES = {
    "fp16": "On a CPU without fp16 kernels most operators compute in float32 between casts: half the size, no speed-up."
}


def build_artifact(model: ir.Model, out: Path, options: BuildOptions, *, settings: Settings) -> Artifact:
    """Return the artifact written into `out`.

    Raises CannotRun when the execution provider is not here, BuildFailed when the runtime refuses, crashes or runs too
    long.
    """
    import onnxruntime

    require_provider(settings)
    path = out / MODEL_FILE
    save_model(model, path)
    manifest = Manifest(
        target="onnxruntime",
        precision=options.precision,
        inputs=model_inputs(model),
        outputs=model_outputs(model),
        files=hashes_of(out, [file.name for file in out.glob(MODEL_FILE + "*")]),
        settings={
            "provider": settings.provider,
            "execution_provider": PROVIDERS[settings.provider],
            "optimization": settings.optimization,
            "spinning": "on" if settings.spinning else "off",
            "operators": settings.operators,
            "accuracy_level": str(settings.accuracy_level),
            "intra_op_threads": str(options.threads),
            "inter_op_threads": "1",
        },
        versions={"onnxruntime": str(onnxruntime.__version__)},
        device=processor_label() if settings.provider == "cpu" else settings.provider,
        details=_details(path, model, options, settings),
    )
    write_manifest(out, manifest)
    return Artifact(out, manifest)


def _details(path: Path, model: ir.Model, options: BuildOptions, settings: Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="graphwright-") as scratch:
        executed = run_isolated(
            "targets.onnxruntime.worker:prove",
            {
                "path": str(path),
                "scratch": scratch,
                "settings": asdict(settings),
                "threads": options.threads,
                "planned": planned_int8(model),
                "named": product_aliases(model),
            },
            time_limit_s=options.time_limit_s,
        )
    executed["fallbacks"] = fallbacks(executed["float_fallbacks"], model, settings)
    details: dict[str, Any] = {"executed": executed}
    if settings.provider == "cpu" and options.precision in _CPU_PRECISION_NOTES:
        details["note"] = _CPU_PRECISION_NOTES[options.precision]
    return details
