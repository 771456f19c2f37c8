"""Which TensorRT builds and for what: chosen from the settings, the installed packages and the GPU."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from passes.errors import BuildFailed, GraphwrightError, MissingDependency, UsageError
from targets.isolation import run_isolated
from targets.tensorrt.capabilities import AHEAD_OF_TIME
from targets.tensorrt.device import find_gpu
from targets.tensorrt.settings import Backend, Settings, architectures_text

MODULES: dict[Backend, str] = {"rtx": "tensorrt_rtx", "full": "tensorrt"}
EXTRAS: dict[Backend, str] = {"rtx": "tensorrt-rtx", "full": "tensorrt"}
_TIME_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Package:
    """One of the two TensorRT packages: its version, or why it can't be used. `is_absent` tells absent from broken."""

    version: str = ""
    problem: str = ""
    is_absent: bool = False

    @property
    def is_usable(self) -> bool:
        return not self.problem


@dataclass(frozen=True, slots=True)
class Choice:
    """What to build: engines of `backend` for `architectures`, or with backend None the ONNX alone, and why."""

    backend: Backend | None
    architectures: tuple[int, ...] = ()
    reason: str = ""


@lru_cache(maxsize=2)
def find_package(backend: Backend) -> Package:
    """Return what this machine has of a package; imported in a process of its own, since a broken one can crash."""
    module = MODULES[backend]
    if importlib.util.find_spec(module) is None:
        return Package(problem=f"{module} is not installed", is_absent=True)
    try:
        return Package(
            version=run_isolated("targets.tensorrt.backend:version_of", {"module": module}, time_limit_s=_TIME_LIMIT_S)
        )
    except GraphwrightError as error:
        return Package(problem=f"{module} is installed but broken: {error.message}")


def version_of(module: str) -> str:
    """Return the version that the package itself states."""
    package: Any = importlib.import_module(module)
    return str(package.__version__)


def architectures_of(settings: Settings) -> tuple[int, ...]:
    """Return the compute capabilities asked for, or this machine's GPU's, or none. Imports nothing."""
    if settings.architectures:
        return settings.architectures
    gpu = find_gpu()
    return (gpu.architecture,) if gpu else ()


def choose(settings: Settings) -> Choice:
    """Return what to build.

    Raises UsageError for an architecture that the backend can't build for, BuildFailed when the full package has no
    GPU, MissingDependency when an engine was asked for and its package is absent or broken.
    """
    architectures = architectures_of(settings)
    if settings.backend == "full":
        return _full(settings)
    gpu = find_gpu()
    if settings.backend is None and gpu and architectures == (gpu.architecture,) and find_package("full").is_usable:
        return Choice("full", architectures)
    if not architectures:
        if settings.backend == "rtx":
            raise UsageError("No compute capability is named and there is no GPU here.", hint="Name one: sm=89.")
        return Choice(None, reason="no compute capability is named (sm=89) and there is no GPU here")
    unfit = [sm for sm in architectures if sm not in AHEAD_OF_TIME]
    if unfit and settings.architectures:
        raise UsageError(
            f"No engine can be built here for {architectures_text(unfit)}: TensorRT for RTX builds for "
            f"{architectures_text(AHEAD_OF_TIME)}.",
            hint="On a machine with that GPU, install the full package, 'tensorrt', and build there.",
        )
    if unfit:
        return Choice(None, reason=f"TensorRT for RTX does not build for {gpu}, and the full package can't be used")
    package = find_package("rtx")
    if package.is_usable:
        return Choice("rtx", architectures)
    if settings.architectures or settings.backend:
        raise _missing("rtx", package)
    return Choice(None, reason=package.problem)


def _full(settings: Settings) -> Choice:
    gpu, package = find_gpu(), find_package("full")
    if not package.is_usable:
        raise _missing("full", package)
    if gpu is None:
        raise BuildFailed(
            "TensorRT's full package builds only on a machine with an NVIDIA GPU, and there is none here.",
            hint="backend=rtx with sm=... builds ahead of time without one.",
        )
    if settings.architectures not in ((), (gpu.architecture,)):
        raise UsageError(
            f"TensorRT's full package builds for the GPU that it runs on, {gpu}, not for "
            f"{architectures_text(settings.architectures)}.",
            hint="Leave sm out, or take backend=rtx.",
        )
    return Choice("full", (gpu.architecture,))


def _missing(backend: Backend, package: Package) -> MissingDependency:
    install = f"pip install 'graphwright[{EXTRAS[backend]}]'"
    without = "; without sm and backend, the TensorRT-ready ONNX is made alone"
    hint = f"{install}{without}" if package.is_absent else f"Reinstall it: {install}{without}"
    return MissingDependency(f"An engine was asked for, but {package.problem}.", hint=hint)
