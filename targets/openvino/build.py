"""Writing an OpenVINO artifact: the IR, read back and compiled once as proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import BuildFailed, GraphwrightError
from targets.base import Artifact
from targets.manifest import Manifest, hashes_of, write_manifest
from targets.openvino.compiled import compile_ir
from targets.openvino.conversion import as_onnx_file, cause_from_error, converted, name_ports, onnx_names, save_ir
from targets.openvino.executed import executed_from_compiled
from targets.openvino.runtime import device_label, load_openvino, require_device
from targets.openvino.settings import Settings, properties_from_settings
from targets.planned import planned_int8
from targets.specs import model_inputs, model_outputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.base import BuildOptions, TensorSpec

IR_FILE = "openvino.xml"
WEIGHTS_FILE = "openvino.bin"


def build_artifact(model: ir.Model, out: Path, options: BuildOptions, *, settings: Settings) -> Artifact:
    """Return the artifact written into `out`.

    Raises CannotRun when the device is not here or computes otherwise, BuildFailed with the runtime's cause when it
    refuses.
    """
    core = require_device(settings.device)
    inputs, outputs = model_inputs(model), model_outputs(model)
    path = out / IR_FILE
    with as_onnx_file(model) as source:
        graph = converted(source, core)
        name_ports(graph, inputs, outputs)
        save_ir(graph, path, compress_to_fp16=options.precision == "fp16", taken=onnx_names(model))
        del graph  # it maps the temporary file
    compiled = _compiled(path, settings, options.threads)
    _verify_ports(compiled.inputs, inputs)
    _verify_ports(compiled.outputs, outputs)
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
        versions={"openvino": str(load_openvino().get_version())},
        device=device_label(core, settings.device),
        details={"executed": executed_from_compiled(compiled, planned_int8(model))},
    )
    write_manifest(out, manifest)
    return Artifact(out, manifest)


def _compiled(path: Path, settings: Settings, threads: int) -> Any:
    try:
        return compile_ir(path, settings, threads=threads)
    except GraphwrightError:
        raise
    except Exception as error:  # plug-ins raise RuntimeError and what their kernels raise
        raise BuildFailed(f"OpenVINO does not compile the model: {cause_from_error(error)}") from error


def _verify_ports(ports: Any, specs: tuple[TensorSpec, ...]) -> None:
    """Raise BuildFailed unless the written model has exactly these names, in this order: the runner goes by position."""
    found = [port.get_names() for port in ports]
    if len(found) != len(specs) or any(spec.name not in names for spec, names in zip(specs, found, strict=True)):
        raise BuildFailed(f"The written model has {found} where the graph has {[spec.name for spec in specs]}.")
