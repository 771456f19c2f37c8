"""The NVIDIA GPU of this machine, found without loading a CUDA library into this process."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from passes.errors import GraphwrightError
from targets.isolation import run_isolated

_TIME_LIMIT_S = 20.0
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")  # Linux; Windows' Linux subsystem
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `architecture` is its compute capability: 89 for 8.9."""

    name: str
    architecture: int
    driver: str = ""

    def __str__(self) -> str:
        return f"{self.name} (SM{self.architecture})"


@lru_cache(maxsize=1)
def find_gpu() -> Gpu | None:
    """Return the first GPU that CUDA would use, or None; never raises. Asked once a process."""
    return _gpu_from_nvidia_smi() or _gpu_from_driver()


def _gpu_from_nvidia_smi() -> Gpu | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return gpu_from_csv(run.stdout)


def gpu_from_csv(text: str) -> Gpu | None:
    """Return the first GPU of nvidia-smi's "name, 8.9, 570.10" lines; None when there is none."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.rsplit(",", 2)]
        digits = fields[1].replace(".", "") if len(fields) == 3 else ""
        if digits.isdigit():
            return Gpu(fields[0], int(digits), fields[2])
    return None


def _gpu_from_driver() -> Gpu | None:
    if not any(Path(file).exists() for file in _DEVICE_FILES):
        return None
    try:
        found = run_isolated("targets.tensorrt.device:ask_driver", {}, time_limit_s=_TIME_LIMIT_S)
    except GraphwrightError:
        return None
    return Gpu(found["name"], found["architecture"]) if found else None


def ask_driver() -> dict[str, str | int] | None:
    """Return the first GPU's name and architecture from libcuda, for a container without nvidia-smi."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    calls: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceGetName", (name, len(name), device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)),
    )
    if any(getattr(cuda, function)(*arguments) != 0 for function, arguments in calls):
        return None
    return {"name": name.value.decode(errors="replace"), "architecture": major.value * 10 + minor.value}
