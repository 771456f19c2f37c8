"""Where the time of an ONNX Runtime artifact goes, by the runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from targets.base import Arithmetic, Profile, shares_of_time
from targets.manifest import checked_file, read_manifest
from targets.onnxruntime.build import MODEL_FILE
from targets.onnxruntime.executed import INT8_OPERATORS
from targets.onnxruntime.session import open_session
from targets.onnxruntime.settings import TABLE, session_options, settings_from_text
from targets.processor import low_precision_note

if TYPE_CHECKING:
    from targets.base import Array, Artifact

RUNS = 6
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_BYTES = frozenset({"int8", "uint8"})


def profile_artifact(artifact: Artifact, feeds: Mapping[str, Array], *, threads: int) -> Profile:
    """Return the share of time by operator over some runs on `feeds`, the first not counted."""
    manifest = read_manifest(artifact.path)
    settings = settings_from_text({key: manifest.settings[key] for key in TABLE})
    model = checked_file(artifact.path, manifest, MODEL_FILE)
    with tempfile.TemporaryDirectory(prefix="graphwright-") as folder:
        options = session_options(settings, threads=threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(model, settings, options=options)
        for _ in range(RUNS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    note = low_precision_note() if settings.provider == "cpu" else ""
    return Profile(shares_of_time(_kernel_times(events)), note)


def _kernel_times(events: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Arithmetic, float]]:
    """Yield operator, arithmetic and median microseconds of each node's calls, without the first: it allocates."""
    calls: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            calls[event["name"]].append(event)
    for called in calls.values():
        counted = called[1:] or called
        facts = called[0].get("args", {})
        operator = str(facts.get("op_name", "unknown"))
        yield operator, _arithmetic(operator, facts), median(float(event.get("dur", 0)) for event in counted)


def _arithmetic(operator: str, facts: Mapping[str, Any]) -> Arithmetic:
    if operator in _CONVERSIONS:
        return "conversion"
    first = next((kind for entry in facts.get("input_type_shape", ()) for kind in entry), "")
    return "int8" if operator in INT8_OPERATORS or first in _BYTES else "float"
