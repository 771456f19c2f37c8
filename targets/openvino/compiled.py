"""A compiled model whose every property is the one that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from passes.errors import CannotRun
from targets.openvino.runtime import load_openvino, require_device
from targets.openvino.settings import Settings, properties_from_settings

_HINT_OF_TYPE = {"f32": "f32", "float32": "f32", "bf16": "bf16", "bfloat16": "bf16", "f16": "f16", "float16": "f16"}


def compile_ir(path: Path, settings: Settings, *, threads: int, counts_time: bool = False) -> Any:
    """Return the compiled model of an IR file. Lets the runtime's own errors through; they carry the cause.

    With `counts_time`, its requests tell the time that each layer took.

    Raises CannotRun when the device is not here, or computes in another precision than was asked for: a CPU without
    fp16 takes bf16 instead and says nothing.
    """
    core = require_device(settings.device)
    properties = properties_from_settings(settings, threads=threads)
    if counts_time:
        properties["PERF_COUNT"] = "YES"
    compiled = core.compile_model(core.read_model(str(path)), settings.device, properties)
    kind = compiled.get_property("INFERENCE_PRECISION_HINT")
    taken = _HINT_OF_TYPE.get(kind.get_type_name() if isinstance(kind, load_openvino().Type) else str(kind), str(kind))
    if taken != settings.hint:
        raise CannotRun(
            f"OpenVINO's {settings.device} device would compute in {taken} instead of {settings.hint}.",
            hint="Build for a precision that this device has.",
        )
    return compiled
