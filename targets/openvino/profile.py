"""Where the time of an OpenVINO artifact goes, by the plug-in's counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from targets.base import Arithmetic, Profile, shares_of_time
from targets.manifest import checked_file, read_manifest
from targets.openvino.build import IR_FILE
from targets.openvino.compiled import compile_ir
from targets.openvino.executed import conversion_names
from targets.openvino.settings import Settings
from targets.processor import low_precision_note

if TYPE_CHECKING:
    from targets.base import Array, Artifact

RUNS = 5
_INT8_KERNELS = ("_I8", "_U8")


def profile_artifact(artifact: Artifact, feeds: Mapping[str, Array], *, threads: int) -> Profile:
    """Return the share of time by layer type over some runs on `feeds`, after one that is not counted."""
    manifest = read_manifest(artifact.path)
    settings = Settings(manifest.settings["device"], manifest.settings["precision_hint"])
    compiled = compile_ir(checked_file(artifact.path, manifest, IR_FILE), settings, threads=threads, counts_time=True)
    request = compiled.create_infer_request()
    given = {index: feeds[spec.name] for index, spec in enumerate(manifest.inputs)}
    request.infer(given)
    entries: list[Any] = []
    for _ in range(RUNS):
        request.infer(given)
        entries += request.profiling_info
    converting = conversion_names(compiled)
    note = low_precision_note() if settings.device == "CPU" else ""
    return Profile(shares_of_time(_layer_times(entries, converting)), note)


def _layer_times(entries: Iterable[Any], converting: frozenset[str]) -> Iterable[tuple[str, Arithmetic, float]]:
    """Yield type, arithmetic and median microseconds of each layer that took time."""
    runs: defaultdict[str, list[Any]] = defaultdict(list)
    for entry in entries:
        runs[entry.node_name].append(entry)
    for name, called in runs.items():
        microseconds = median(entry.real_time.total_seconds() * 1e6 for entry in called)
        is_int8 = called[0].exec_type.upper().endswith(_INT8_KERNELS)
        arithmetic: Arithmetic = "int8" if is_int8 else "float"
        if microseconds:
            yield called[0].node_type, "conversion" if name in converting else arithmetic, microseconds
