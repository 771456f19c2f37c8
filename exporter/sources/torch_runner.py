"""A torch module as a Runner: eager, which is the reference, and torch.compile, for speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.sample_fit import fitted
from exporter.sources.torch_arrays import array_from_tensor, tensor_from_array
from exporter.sources.torch_builder import Built, device_of
from exporter.sources.torch_outputs import output_specs, run_eager
from exporter.sources.torch_quiet import quiet, reason_of
from passes.errors import CannotRun, UsageError
from targets.base import TensorSpec

if TYPE_CHECKING:
    import torch

    from exporter.sources.torch_dims import Dims
    from targets.base import Array

MOST_RUNS = 3
"""How many sizes are run, at most, to learn which output dimensions change."""

EagerRun = tuple[Mapping[str, int], Mapping[str, "torch.Tensor"]]
"""Sizes by dimension, and the outputs at those sizes."""


@dataclass(slots=True)
class TorchRunner:
    """Runs a module on numpy arrays, in inference mode."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    call: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    device: torch.device

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        arrays = fitted(feeds, self.inputs, label="This call", finite=False)
        tensors = {name: tensor_from_array(array, self.device) for name, array in arrays.items()}
        return {name: array_from_tensor(tensor) for name, tensor in self.call(tensors).items()}


@contextmanager
def eager(built: Built, dims: Dims, *, threads: int) -> Iterator[TorchRunner]:
    """Yield torch eager. Raises UsageError when the module fails on its own sample inputs."""
    with _threads(threads):
        outputs = output_specs(dims, eager_runs(built.module, dims))

        def call(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            return run_eager(built.module, dims.sample, tensors)

        yield TorchRunner(dims.inputs, outputs, call, device_of(built.module))


@contextmanager
def compiled(built: Built, dims: Dims, *, threads: int) -> Iterator[TorchRunner]:
    """Yield torch.compile's module, compiled for the sample's sizes. Raises CannotRun when it can't compile."""
    import torch

    with _threads(threads):
        try:
            with quiet():
                module = torch.compile(built.module)
                run_eager(module, dims.sample, dims.sample.tensors)
        except Exception as error:
            raise CannotRun(
                f"torch.compile failed: {reason_of(error)}", hint="Only the comparison with torch.compile is left out."
            ) from error
        outputs = output_specs(dims, eager_runs(built.module, dims))

        def call(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            return run_eager(module, dims.sample, tensors)

        try:
            yield TorchRunner(dims.inputs, outputs, call, device_of(built.module))
        finally:
            torch.compiler.reset()


def eager_runs(module: torch.nn.Module, dims: Dims) -> list[EagerRun]:
    """Return the outputs at the traced sizes, or at the sample's own, then at those probed sizes that the module takes.

    Raises UsageError when the module fails on its own sample inputs.
    """
    runs: list[EagerRun] = []
    own = {
        dim: int(dims.sample.tensors[name].shape[axis])
        for name, axes in dims.dynamic.items()
        for axis, dim in axes.items()
    }
    failure: Exception | None = None
    for sizes in (dict(dims.sizes), own):
        try:
            runs.append((sizes, run_eager(module, dims.sample, dims.tensors_at(sizes))))
            break
        except UsageError:
            raise
        except Exception as error:
            failure = error
    if not runs:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in dims.sample.tensors.items())
        raise UsageError(
            f"The module fails on its own sample inputs ({shapes}): {reason_of(failure)}",
            hint="Sample inputs must be inputs that the module takes.",
        ) from failure
    for sizes in dims.probe_sizes():
        if len(runs) == MOST_RUNS:
            break
        try:
            runs.append((sizes, run_eager(module, dims.sample, dims.tensors_at(sizes))))
        except Exception:  # the module doesn't take these sizes, which is no fault of it
            continue
    return runs


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
