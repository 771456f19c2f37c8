"""Running an artifact here: the program compiled for each shape on its first call, weights as constants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import ArtifactRefused, CannotRun, UsageError
from targets.base import Artifact, TensorSpec
from targets.feeds import check_feeds
from targets.manifest import read_manifest
from targets.xla.backend import has_tpu, load_jax, start_pool
from targets.xla.build import PROGRAM_FILE
from targets.xla.weights import FILE_NAME as WEIGHTS_FILE
from targets.xla.weights import read_weights

if TYPE_CHECKING:
    from targets.base import Array


KEPT_BYTES = 2 << 30
"""Weights that compiled programs hold, each a copy of its own; beyond it the one unused for longest goes first."""
KEPT_SHAPES = 16
"""Compiled programs kept at most, however small their weights."""


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
    bounds: tuple[str, ...] = ()
    weight_bytes: int = 0
    compiled: dict[tuple[tuple[int, ...], ...], Any] = field(default_factory=dict)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        import jax

        check_feeds(feeds, self.inputs)
        values = [np.asarray(feeds[spec.name], order="C") for spec in self.inputs]
        shapes = tuple(value.shape for value in values)
        with jax.enable_x64(True):
            program = self.compiled.pop(shapes, None)
            if program is None:
                self._make_room()
                program = self._compiled(values)
            self.compiled[shapes] = program  # the latest used stands last
            results = program(*values)
            arrays = [np.asarray(result) for result in results]
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}

    def _make_room(self) -> None:
        """Drop the programs unused for longest, so that one more stays within the limits."""
        while self.compiled and (
            len(self.compiled) >= KEPT_SHAPES or (len(self.compiled) + 1) * self.weight_bytes > KEPT_BYTES
        ):
            del self.compiled[next(iter(self.compiled))]

    def _compiled(self, values: list[Array]) -> Any:
        import jax

        # One thread can be had whatever the pool's size: the program then never hands work to the pool.
        alone = jax.default_backend() == "cpu" and self.threads == 1
        try:
            lowered = jax.jit(self.function).lower(*values)
            return lowered.compile(compiler_options={"xla_cpu_multi_thread_eigen": False} if alone else None)
        except Exception as error:
            shapes = ", ".join(
                f"{spec.name}{list(value.shape)}" for spec, value in zip(self.inputs, values, strict=True)
            )
            bounds = f" Its bounds: {'; '.join(self.bounds)}." if self.bounds else ""
            raise UsageError(
                f"The program does not take the sizes {shapes}: {str(error).splitlines()[0][:300]}",
                hint=f"Feed sizes of at least 1 that fit the model.{bounds}",
            ) from error


@contextlib.contextmanager
def open_artifact(artifact: Artifact, threads: int) -> Iterator[XlaRunner]:
    """Yield the runner. Raises CannotRun for a topology's artifact, ArtifactRefused for a changed or unfit one."""
    manifest = read_manifest(artifact.path)
    if manifest.target != "xla":
        raise ArtifactRefused(f"The artifact is one of {manifest.target}, not of xla.")
    topology = manifest.settings.get("topology", "")
    if topology:
        why = "running such a program is not implemented" if has_tpu() else "this machine has no TPU"
        raise CannotRun(
            f"The program was compiled ahead of time for {topology}; {why}, so it was not executed.",
            hint="Build the xla target without 'topology' to run here.",
        )
    jax = load_jax()
    from jax import export

    pool = start_pool(threads)
    try:
        exported = export.deserialize(bytearray((artifact.path / PROGRAM_FILE).read_bytes()))
    except Exception as error:
        raise ArtifactRefused(
            f"The artifact's {PROGRAM_FILE} is not a program that jax {jax.__version__} reads: {error}",
            hint=f"It was built with jax {manifest.versions.get('jax', '?')}: install that, or build it again.",
        ) from error
    platform = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()  # jax's two names for one
    if platform not in exported.platforms:
        raise CannotRun(f"The program is for {', '.join(exported.platforms)}; jax runs on {platform} here.")
    weights = read_weights(artifact.path / WEIGHTS_FILE)

    def function(*inputs: Any) -> Any:
        # Weights are constants of the compiled program: on a CPU, convolutions then run on weights laid out for them.
        return exported.call(weights, list(inputs))

    bounds = tuple(manifest.details.get("bounds", ()))
    size = sum(array.nbytes for array in weights.values())
    yield XlaRunner(manifest.inputs, manifest.outputs, threads, pool, function, bounds, size)
