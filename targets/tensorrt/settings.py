"""The options of `--target tensorrt:...`, read from text and checked once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from passes.errors import UsageError
from targets.tensorrt.capabilities import AHEAD_OF_TIME, ARCHITECTURES

Backend = Literal["rtx", "full"]

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|)")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for; None and () mean "choose for me".

    architectures: compute capabilities, 89 for SM89.
    workspace_bytes: device memory that a layer may use as scratch.
    tf32: whether fp32 products may drop 13 bits of mantissa, TensorRT's default and not ours.
    """

    architectures: tuple[int, ...] = ()
    backend: Backend | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = False


def settings_from_text(texts: Mapping[str, str]) -> Settings:
    """Return the checked settings; raises UsageError for an unknown key or an unfit value, with what is known."""
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(sorted(_READERS))}."
            raise UsageError(f"The tensorrt target has no setting '{key}'.", hint=hint)
        field, read = _READERS[key]
        values[field] = read(text)
    settings = Settings(**values)
    missing = [sm for sm in settings.architectures if sm not in AHEAD_OF_TIME]
    if settings.backend == "rtx" and missing:
        raise UsageError(
            f"TensorRT for RTX does not build for {architectures_text(missing)}.",
            hint=f"It builds for {', '.join(f'sm={sm}' for sm in AHEAD_OF_TIME)}; "
            "the full package builds for the GPU that it runs on: backend=full.",
        )
    return settings


def architectures_text(architectures: tuple[int, ...] | list[int]) -> str:
    """Return "SM80, SM89"."""
    return ", ".join(f"SM{sm}" for sm in architectures)


def _architectures(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for item in text.split("+"):
        digits = item.strip().lower().removeprefix("sm").replace(".", "")
        if not digits.isdigit() or int(digits) not in ARCHITECTURES:
            raise UsageError(
                f"sm={text}: '{item}' is not a compute capability that is known here.",
                hint=f"Write one or several of {', '.join(map(str, ARCHITECTURES))}, joined by '+': sm=80+89.",
            )
        found.append(int(digits))
    return tuple(sorted(set(found)))


def _backend(text: str) -> str:
    if text not in ("rtx", "full"):
        raise UsageError(
            f"backend={text} is not known.", hint="rtx: TensorRT for RTX, builds anywhere. full: TensorRT, needs a GPU."
        )
    return text


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"workspace={text} is not a size.", hint="Write workspace=512MiB.")
    return int(match[1]) * _UNITS[match[2]]


def _level(text: str) -> int:
    if text not in ("0", "1", "2", "3", "4", "5"):
        raise UsageError(f"optimization_level={text} is not one of 0 to 5.", hint="3 is TensorRT's default.")
    return int(text)


def _tf32(text: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f"tf32={text} is neither true nor false.")
    return text == "true"


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "sm": ("architectures", _architectures),
    "backend": ("backend", _backend),
    "workspace": ("workspace_bytes", _size),
    "optimization_level": ("optimization_level", _level),
    "tf32": ("tf32", _tf32),
}
