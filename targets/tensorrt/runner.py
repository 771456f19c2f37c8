"""An engine that runs on the GPU: numpy in, numpy out, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from passes.errors import ArtifactRefused, CannotRun, UsageError
from targets.base import TensorSpec
from targets.feeds import check_feeds
from targets.tensorrt.cuda import Device, open_device

if TYPE_CHECKING:
    import numpy as np

    from targets.base import Array


@dataclass(slots=True)
class TensorRtRunner:
    """One execution context. Device buffers are kept between calls and grow when a shape needs more."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: Device
    context: Any
    buffers: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> address, size in bytes

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name. Raises UsageError for an input that is missing, unknown or does not fit."""
        import numpy as np

        check_feeds(feeds, self.inputs)
        for spec in self.inputs:
            self._feed(spec, np.asarray(feeds[spec.name], order="C"))
        unready = self.context.infer_shapes()
        if unready:
            raise UsageError(f"TensorRT cannot infer shapes; these inputs are not set: {', '.join(unready)}.")
        results = {spec.name: self._prepare(spec) for spec in self.outputs}
        if not self.context.execute_async_v3(self.device.stream):
            raise CannotRun("TensorRT could not enqueue the engine.", hint="Its log on stderr says why.")
        for name, array in results.items():
            self.device.download(array, self.buffers[name][0])
        return results

    def _feed(self, spec: TensorSpec, array: Array) -> None:
        if not self.context.set_input_shape(spec.name, tuple(array.shape)):
            raise UsageError(
                f"The input '{spec.name}' has shape {list(array.shape)}, which is outside of the range that the "
                f"engine was built for: {spec}.",
                hint="The manifest lists the range as input_ranges; build again with wider dimensions.",
            )
        self.device.upload(self._address(spec.name, array.nbytes), array)

    def _prepare(self, spec: TensorSpec) -> Array:
        import numpy as np

        shape = tuple(self.context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise CannotRun(f"The shape of output '{spec.name}' depends on the data: {list(shape)}.")
        kind = _numpy_type(spec)
        self._address(spec.name, prod(shape) * kind.itemsize)
        return np.empty(shape, kind)

    def _address(self, name: str, size_bytes: int) -> int:
        """Return the address of a buffer for this tensor, of at least this size, that the context knows."""
        address, size = self.buffers.get(name, (0, -1))
        if size < size_bytes:
            if size >= 0:
                self.device.synchronize()
                self.device.free(address)
            address = self.device.allocate(size_bytes)
            self.buffers[name] = (address, size_bytes)
            if not self.context.set_tensor_address(name, address):
                raise ArtifactRefused(f"The engine has no tensor '{name}'.", hint="Build the artifact again.")
        return address


@contextmanager
def open_runner(
    trt: Any,
    plan: bytes,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    device: Callable[[], AbstractContextManager[Device]] = open_device,
) -> Iterator[TensorRtRunner]:
    """Yield a runner of the serialized engine `plan` on the first GPU. Raises ArtifactRefused when it does not load."""
    with device() as opened:
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        _check_validity(trt, runtime, plan)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ArtifactRefused(
                f"TensorRT {trt.__version__} does not load this engine on this GPU.",
                hint="Build the artifact again here.",
            )
        context = engine.create_execution_context()
        if context is None:
            raise CannotRun("The GPU has no memory for this engine's execution.", hint="Free GPU memory.")
        runner = TensorRtRunner(inputs, outputs, opened, context)
        del context
        try:
            yield runner
        finally:
            opened.synchronize()
            runner.context = None  # released before the engine, and both before the device's memory
            del engine, runtime


def _check_validity(trt: Any, runtime: Any, plan: bytes) -> None:
    """Ask TensorRT for RTX, which can tell, whether the engine fits this GPU and driver."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity == trt.EngineValidity.INVALID:
        raise ArtifactRefused(
            f"TensorRT for RTX calls this engine invalid here (diagnostics {diagnostics}).",
            hint="Build the artifact again for this GPU and this version.",
        )


def _numpy_type(spec: TensorSpec) -> np.dtype[Any]:
    import ml_dtypes
    import numpy as np

    return np.dtype(ml_dtypes.bfloat16) if spec.dtype == "bfloat16" else np.dtype(spec.dtype)
