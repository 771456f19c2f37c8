"""The machine and the versions that a result was made with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from targets.base import Readiness
from targets.registry import BrokenPlugin, load_targets

_PACKAGES = (
    "graphwright",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "torch",
    "openvino",
    "jax",
    "tensorrt-rtx",
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `doctor` found: the environment, every target's readiness, and the plug-ins that failed to load."""

    environment: Mapping[str, str]
    targets: Mapping[str, Readiness]
    broken: tuple[BrokenPlugin, ...]


def diagnose() -> Diagnosis:
    """Return what can be built and run here; probes every target and never raises."""
    targets, broken = load_targets()
    return Diagnosis(describe_environment(), {name: target.probe() for name, target in targets.items()}, broken)


def describe_environment() -> dict[str, str]:
    """Return CPU, core count, Python and the versions of the packages that matter and are installed."""
    found = {
        "cpu": _cpu_name(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    }
    return found | package_versions()


def package_versions() -> dict[str, str]:
    """Return the installed versions of graphwright and of what it builds with."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
