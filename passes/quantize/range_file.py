"""Calibrated ranges in a file, with what they were made from, so that they are not made again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from passes.base import Event
from passes.errors import UsageError
from passes.quantize.ranges import ActivationRange, ChannelRanges, Ranges

FORMAT = "graphwright calibration 1"


def save_ranges(ranges: Ranges, file: Path, *, made_from: Mapping[str, str]) -> None:
    """Write the ranges and the hashes that they were `made_from`; a file that was there is replaced at once."""
    content = {
        "format": FORMAT,
        "made_from": dict(made_from),
        "samples": ranges.samples,
        "method": ranges.method,
        "ranges": {name: asdict(covered) for name, covered in ranges.items()},
        "excluded": [asdict(event) for event in ranges.excluded],
    }
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        raise UsageError(
            f"The calibration cache {file} cannot be written: {error}", hint="Choose another place for it."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def load_ranges(file: Path, *, made_from: Mapping[str, str]) -> Ranges | None:
    """Return the ranges in the file; None without one, or when it was made from something else.

    Raises UsageError for a file that is no calibration cache: it is not to be overwritten.
    """
    if not file.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is '{content['format']}'")
        if content["made_from"] != dict(made_from):
            return None
        found = {name: _range(entry) for name, entry in content["ranges"].items()}
        events = tuple(Event(**event) for event in content["excluded"])
        return Ranges(found, events, int(content["samples"]), str(content["method"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} is not a calibration cache: {error}", hint="Name another file, or delete this one."
        ) from error


def _range(entry: dict[str, Any]) -> ActivationRange:
    channels = entry.pop("channels")
    for name, value in entry.items():
        if not isinstance(value, int | float) and not (name == "magnitude" and value is None):
            raise ValueError(f"'{name}' is {value!r}")
    if channels is None:
        return ActivationRange(**entry)
    rows: int = channels.pop("rows")
    columns: dict[str, tuple[float, ...]] = {name: tuple(map(float, column)) for name, column in channels.items()}
    return ActivationRange(**entry, channels=ChannelRanges(rows=rows, **columns))
