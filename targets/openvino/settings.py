"""The options of `--target openvino:...`, and the properties that they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from passes.errors import UsageError
from targets.settings import Setting, settings_from_table

AUTOMATIC = "auto"
HINTS = ("f32", "bf16", "f16")
TABLE = {
    "device": Setting("CPU", (), "an OpenVINO device: CPU, GPU, NPU, GPU.1, ..."),
    "precision_hint": Setting(AUTOMATIC, (AUTOMATIC, *HINTS), "what floats compute in; auto: by the precision"),
}

_CHOOSERS = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})  # they decide by themselves where a model runs
_DEVICE = re.compile(r"[A-Z]+(\.\d+)?")

# int8 parts are in the graph; the hint fixes what the rest is computed in.
_HINT_OF_PRECISION = {"fp16": "f16", "bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings. `hint` is explicit, never the device's own choice."""

    device: str
    hint: str


def settings_from_text(given: Mapping[str, str], *, precision: str) -> Settings:
    """Return the checked settings; raises UsageError for an unknown name or value.

    A device is one device: AUTO and its like leave the choice to OpenVINO.
    """
    chosen = settings_from_table("openvino", given, TABLE)
    device = chosen["device"]
    if not _DEVICE.fullmatch(device) or device in _CHOOSERS:
        raise UsageError(
            f"The setting device of 'openvino' is not '{device}'.", hint="Name one device: CPU, GPU, NPU or GPU.1."
        )
    hint = chosen["precision_hint"]
    return Settings(device, _HINT_OF_PRECISION.get(precision, "f32") if hint == AUTOMATIC else hint)


def properties_from_settings(settings: Settings, *, threads: int) -> dict[str, str | int]:
    """Return the compile properties that fix all that changes results or speed.

    Left alone, the CPU plug-in computes in bf16 where the CPU has it, quantizes the activations of weight-compressed
    layers on the fly (group 32), keeps KV caches in uint8 and pins its threads to cores.
    """
    properties: dict[str, str | int] = {
        "INFERENCE_PRECISION_HINT": settings.hint,
        "EXECUTION_MODE_HINT": "ACCURACY" if settings.hint == "f32" else "PERFORMANCE",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if settings.device == "CPU":
        properties |= {
            "INFERENCE_NUM_THREADS": threads,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "KV_CACHE_PRECISION": settings.hint,
            "CPU_DENORMALS_OPTIMIZATION": "NO",
            "ENABLE_CPU_PINNING": "NO",
        }
    return properties
