"""jax on this machine: imported, kept off hardware that is not there, and its versions."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from passes.optional import require

PACKAGES = ("jax", "jaxlib", "libtpu")


def load_jax() -> ModuleType:
    """Return jax, its platform fixed to the CPU unless this machine has a TPU or the user chose one.

    libtpu may be installed to compile ahead of time only; jax would otherwise look for a TPU first and fail or wait.
    Raises MissingDependency when jax or flatbuffers (which jax.export needs) is absent or broken.
    """
    jax = require("jax", extra="xla", need="The xla target")
    require("flatbuffers", extra="xla", need="The xla target")
    if not os.environ.get("JAX_PLATFORMS") and not has_tpu() and not _is_initialised():
        jax.config.update("jax_platforms", "cpu" if not has_gpu_plugin() else None)
    return jax


def has_tpu() -> bool:
    """Return whether this machine shows a TPU's device files."""
    return any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))


def has_gpu_plugin() -> bool:
    """Return whether jax's CUDA plug-in is installed."""
    return importlib.util.find_spec("jax_plugins") is not None and any(
        importlib.util.find_spec(f"jax_plugins.xla_cuda{version}") is not None for version in (12, 13)
    )


def _is_initialised() -> bool:
    from jax._src import xla_bridge

    return bool(xla_bridge.backends_are_initialized())


def start_pool(threads: int) -> int:
    """Return the size of XLA's CPU thread pool: `threads`, or what it was made with before.

    Never more than the processors that this process may use: XLA makes all threads at once, and hangs on too many.

    XLA reads the size (from the variable NPROC, else the processors it may use) when its CPU client is made, once in a
    process, and offers no way to change it later.
    """
    import jax

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _is_initialised() or jax.config.jax_platforms not in (None, "", "cpu"):
        return _pool_sizes[-1] if _pool_sizes else available
    threads = min(threads, available)
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)
    try:
        jax.devices()
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before
    _pool_sizes.append(threads)
    return threads


_pool_sizes: list[int] = []
"""What this process asked of XLA; one entry at most."""


@contextlib.contextmanager
def tracing(matmul_precision: str) -> Iterator[None]:
    """Trace with 64-bit types and an explicit matmul precision, in this thread only; no source paths in the program."""
    import jax

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_matmul_precision(matmul_precision))
        with _config(jax, "jax_traceback_in_locations_limit", 0):
            yield


@contextlib.contextmanager
def _config(jax: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def versions() -> dict[str, str]:
    """Return the installed versions of jax and its parts, without importing them."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
