"""Writing an ONNX Runtime artifact: model.onnx with its weights, loaded once as proof."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import BuildFailed, CannotRun
from passes.serialization import save_model
from targets.base import Artifact
from targets.manifest import Manifest, hashes_of, write_manifest
from targets.onnxruntime.blockers import cause_from_error
from targets.onnxruntime.executed import executed_from_graph, watch_optimized_graph
from targets.onnxruntime.session import open_session, require_provider
from targets.onnxruntime.settings import PROVIDERS, Settings, session_options
from targets.planned import planned_int8
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

    Raises CannotRun when the execution provider is not here, BuildFailed with the runtime's cause when it refuses.
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
            "intra_op_threads": str(options.threads),
            "inter_op_threads": "1",
        },
        versions={"onnxruntime": str(onnxruntime.__version__)},
        device=processor_label() if settings.provider == "cpu" else settings.provider,
        details=_details(path, options, settings, planned_int8(model)),
    )
    write_manifest(out, manifest)
    return Artifact(out, manifest)


def _details(path: Path, options: BuildOptions, settings: Settings, planned: tuple[str, ...]) -> dict[str, Any]:
    details: dict[str, Any] = {"executed": _prove(path, settings, options.threads, planned)}
    if settings.provider == "cpu" and options.precision in _CPU_PRECISION_NOTES:
        details["note"] = _CPU_PRECISION_NOTES[options.precision]
    return details


def _prove(path: Path, settings: Settings, threads: int, planned: tuple[str, ...]) -> dict[str, Any]:
    """Return what runs, after loading the written model as `open` will."""
    with tempfile.TemporaryDirectory(prefix="graphwright-") as folder:
        options = session_options(settings, threads=threads)
        executed = watch_optimized_graph(options, Path(folder))
        try:
            open_session(path, settings, options=options)
        except CannotRun:
            raise
        except Exception as error:  # the runtime raises a dozen classes without a common base
            raise BuildFailed(f"ONNX Runtime does not load the model: {cause_from_error(error)}") from error
        return executed_from_graph(executed, planned)
