"""Running an artifact here: the program compiled for each shape on its first call, weights as constants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import ArtifactRefused, CannotRun, UsageError
from targets.base import Artifact, TensorSpec
from targets.manifest import read_manifest
from targets.xla.backend import load_jax
from targets.xla.build import PROGRAM_FILE
from targets.xla.symbols import dtype_from_name
from targets.xla.weights import FILE_NAME as WEIGHTS_FILE
from targets.xla.weights import read_weights

if TYPE_CHECKING:
    from targets.base import Array


@dataclass(slots=True)
class XlaRunner:
    """A runner over one artifact. `threads` is what was asked for; `pool_threads` how many XLA's pool really has.

    The program is compiled for each new set of input shapes, and kept; the first call of a shape is its warm-up.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    threads: int
    pool_threads: int
    function: Any
    compiled: dict[tuple[tuple[int, ...], ...], Any] = field(default_factory=dict)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        import jax

        values = checked(self.inputs, feeds)
        shapes = tuple(value.shape for value in values)
        with jax.enable_x64(True):
            if shapes not in self.compiled:
                self.compiled[shapes] = _compiled(self.function, values, self.threads)
            results = self.compiled[shapes](*values)
            arrays = [np.asarray(result) for result in results]
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}


def _compiled(function: Any, values: list[Array], threads: int) -> Any:
    import jax

    lowered = jax.jit(function).lower(*values)
    if jax.default_backend() != "cpu" or threads != 1:
        return lowered.compile()
    # One thread can be had whatever the pool's size: the program then never hands work to the pool.
    return lowered.compile(compiler_options={"xla_cpu_multi_thread_eigen": False})


@contextlib.contextmanager
def open_artifact(artifact: Artifact, threads: int) -> Iterator[XlaRunner]:
    """Yield the runner. Raises CannotRun for a topology's artifact, ArtifactRefused for a changed or unfit one."""
    manifest = read_manifest(artifact.path)
    if manifest.target != "xla":
        raise ArtifactRefused(f"{artifact.path} is an artifact of {manifest.target}, not of xla.")
    topology = manifest.settings.get("topology", "")
    if topology:
        raise CannotRun(
            f"{artifact.path} was compiled ahead of time for {topology}; this machine has no TPU.",
            hint="Run it on such a TPU, or build the xla target without 'topology' to run here.",
        )
    jax = load_jax()
    from jax import export

    pool = _prepare_threads(threads)
    try:
        exported = export.deserialize(bytearray((artifact.path / PROGRAM_FILE).read_bytes()))
    except Exception as error:
        raise ArtifactRefused(
            f"{artifact.path / PROGRAM_FILE} is not a program that jax {jax.__version__} reads: {error}",
            hint=f"It was built with jax {manifest.versions.get('jax', '?')}: install that, or build it again.",
        ) from error
    if jax.default_backend() not in exported.platforms and jax.default_backend() != "gpu":
        raise CannotRun(
            f"The program is for {', '.join(exported.platforms)}; jax runs on {jax.default_backend()} here."
        )
    weights = read_weights(artifact.path / WEIGHTS_FILE)

    def function(*inputs: Any) -> Any:
        # Weights are constants of the compiled program: on a CPU, convolutions then run on weights laid out for them.
        return exported.call(weights, list(inputs))

    yield XlaRunner(manifest.inputs, manifest.outputs, threads, pool, function)


def _prepare_threads(threads: int) -> int:
    """Return the size of XLA's CPU thread pool: `threads` if this is its first use here, else what it was made with.

    XLA reads the pool's size when its CPU client is made, once in a process, and offers no way to change it later.
    """
    import os

    import jax
    from jax._src import xla_bridge

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if xla_bridge.backends_are_initialized() or jax.config.jax_platforms not in (None, "", "cpu"):
        return _pool.get("threads", available)
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)
    try:
        jax.devices()
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before
    _pool["threads"] = threads
    return threads


_pool: dict[str, int] = {}


def checked(specs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> list[Array]:
    """Return the fed arrays in the program's order. Raises UsageError for a wrong name, rank, type or size."""
    expected = "; ".join(map(str, specs))
    missing = [spec.name for spec in specs if spec.name not in feeds]
    unknown = [name for name in feeds if name not in {spec.name for spec in specs}]
    if missing or unknown:
        got = ", ".join(feeds) or "nothing"
        raise UsageError(
            f"The inputs do not match: expected {expected}; got {got}.", hint=_names_hint(missing, unknown)
        )
    symbols: dict[str, int] = {}
    for spec in specs:
        array = np.asarray(feeds[spec.name])
        got = f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"
        if array.dtype != dtype_from_name(spec.dtype) or array.ndim != len(spec.shape):
            raise UsageError(f"The input '{spec.name}' does not match: expected {spec}; got {got}.")
        for axis, (dim, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
            wanted = symbols.setdefault(dim, size) if isinstance(dim, str) else size if dim is None else dim
            if size != wanted or size == 0:
                raise UsageError(
                    f"The input '{spec.name}' does not match: expected {spec}; got {got}.",
                    hint=f"Axis {axis} must be {wanted or 'at least 1'}.",
                )
    return [
        np.ascontiguousarray(feeds[spec.name]) if np.ndim(feeds[spec.name]) else np.asarray(feeds[spec.name])
        for spec in specs
    ]


def _names_hint(missing: list[str], unknown: list[str]) -> str:
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"unknown: {', '.join(unknown)}"] if unknown else []
    return "; ".join(parts)
