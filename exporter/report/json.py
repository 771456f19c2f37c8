"""report.json: the whole BuildReport as strict JSON, described by report.schema.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.resources import files
from typing import Any

from exporter.results import BuildReport

SCHEMA_VERSION = 1
SCHEMA_FILE = "report.schema.json"


def report_to_text(report: BuildReport) -> str:
    """Return the JSON document with a line end; equal reports give equal text."""
    return json.dumps(report_to_document(report), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def report_to_document(report: BuildReport) -> dict[str, Any]:
    """Return the report as plain dicts, lists, strings and finite numbers.

    Numbers that JSON lacks are the strings "Infinity", "-Infinity" and "NaN"; verdicts are their words, exit codes
    their numbers.
    """
    return {"schema_version": SCHEMA_VERSION, **plain(report)}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every report.json meets."""
    text = (files("exporter.report") / SCHEMA_FILE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def plain(value: object) -> Any:
    """Return dataclasses, enumerations and arrays as dicts, lists, strings and finite numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _non_finite_text(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    return str(value)


def _non_finite_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
