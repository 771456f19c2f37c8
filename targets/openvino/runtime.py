"""OpenVINO itself, imported so that it sends nothing, and its devices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from passes.errors import CannotRun
from passes.optional import require
from targets.processor import processor_label


def load_openvino() -> Any:
    """Return the openvino module, imported without its usage reports. Raises MissingDependency with the fix.

    Importing openvino sends an event to an analytics server; nothing else of it uses the network. It takes a silent
    stand-in where its telemetry package is not installed, so that package is hidden during the import. Whatever in this
    process imports openvino first decides: go through this function.
    """
    with _hidden("openvino_telemetry"):
        return require("openvino", extra="openvino", need="The openvino target")


@cache
def the_core() -> Any:
    """Return this process's one Core, which lives until the process ends.

    OpenVINO's CPU plug-in gives the thread an alternate signal stack and takes it away with the Core. Two Cores that do
    not end in reverse order leave a stack that is unmapped, and the next signal (Ctrl-C) crashes the process.
    """
    return load_openvino().Core()


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let `import module` fail for a while, unless it was imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def require_device(device: str) -> Any:
    """Return a Core that has `device`. Raises CannotRun when this machine doesn't."""
    core = the_core()
    present = list(core.available_devices)
    if device not in present and (device + ".0") not in present:
        raise CannotRun(
            f"OpenVINO finds no device '{device}' on this machine; it has {', '.join(present) or 'none'}.",
            hint="Install the device's driver, or take device=CPU.",
        )
    return core


def device_label(core: Any, device: str) -> str:
    """Return what the device is: for the CPU, its name and the instruction sets that decide about low precision."""
    return processor_label() if device == "CPU" else str(core.get_property(device, "FULL_DEVICE_NAME"))
