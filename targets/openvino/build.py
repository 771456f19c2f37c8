"""Writing an OpenVINO artifact: the IR, read back and compiled once as proof."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from targets.base import Artifact
from targets.isolation import run_isolated
from targets.manifest import Manifest, hashes_of, write_manifest
from targets.openvino.conversion import as_onnx_file, onnx_names
from targets.openvino.fallbacks import fallbacks
from targets.openvino.settings import Settings, properties_from_settings
from targets.planned import planned_int8, product_aliases
from targets.specs import model_inputs, model_outputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.base import BuildOptions

IR_FILE = "openvino.xml"
WEIGHTS_FILE = "openvino.bin"


def build_artifact(model: ir.Model, out: Path, options: BuildOptions, *, settings: Settings) -> Artifact:
    """Return the artifact written into `out`.

    Raises CannotRun when the device is not here or computes otherwise, BuildFailed when the runtime refuses, crashes
    or runs too long.
    """
    inputs, outputs = model_inputs(model), model_outputs(model)
    with as_onnx_file(model) as source:
        facts = run_isolated(
            "targets.openvino.worker:build_ir",
            {
                "source": str(source),
                "target": str(out / IR_FILE),
                "settings": asdict(settings),
                "threads": options.threads,
                "inputs": [spec.name for spec in inputs],
                "outputs": [spec.name for spec in outputs],
                "taken": sorted(onnx_names(model)),
                "planned": planned_int8(model),
                "named": product_aliases(model),
                "compress_to_fp16": options.precision == "fp16",
            },
            time_limit_s=options.time_limit_s,
        )
    executed = facts["executed"]
    executed["fallbacks"] = fallbacks(executed["fallbacks"], model)
    properties = properties_from_settings(settings, threads=options.threads)
    manifest = Manifest(
        target="openvino",
        precision=options.precision,
        inputs=inputs,
        outputs=outputs,
        files=hashes_of(out, [IR_FILE, WEIGHTS_FILE]),
        settings={
            "device": settings.device,
            "precision_hint": settings.hint,
            **{name.lower(): str(value) for name, value in properties.items()},
        },
        versions={"openvino": facts["version"]},
        device=facts["device"],
        details={"executed": executed},
    )
    write_manifest(out, manifest)
    return Artifact(out, manifest)
