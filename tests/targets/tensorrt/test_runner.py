"""The runner's side of an inference, against a pretended GPU whose memory is a dict and an engine that doubles."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from passes.errors import ArtifactRefused, CannotRun, UsageError
from targets.base import TensorSpec
from targets.tensorrt.cuda import CudaDevice
from targets.tensorrt.runner import TensorRtRunner, open_runner


@dataclass
class PretendedDevice:
    """Device memory as bytearrays by address."""

    stream: int = 7
    memory: dict[int, bytearray] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)
    next_address: int = 1000

    def allocate(self, size_bytes: int) -> int:
        self.next_address += 1
        self.memory[self.next_address] = bytearray(size_bytes)
        return self.next_address

    def free(self, address: int) -> None:
        del self.memory[address]
        self.freed.append(address)

    def upload(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        assert len(self.memory[address]) >= array.nbytes
        self.memory[address][: array.nbytes] = array.tobytes()

    def download(self, array: np.ndarray, address: int) -> None:
        piece = bytes(self.memory[address][: array.nbytes])
        array[...] = np.frombuffer(piece, array.dtype).reshape(array.shape)

    def synchronize(self) -> None:
        pass


@dataclass
class Doubler:
    """An execution context: y = 2 x for a first dimension of 1 to 8."""

    device: PretendedDevice
    kind: Any = np.float32
    shape: tuple[int, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)
    output_shape: tuple[int, ...] | None = None
    enqueues: bool = True
    least_rank: int = 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return len(shape) >= self.least_rank and (not shape or 1 <= shape[0] <= 8)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in ("x", "y")

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.output_shape or self.shape

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.device.stream
        array = np.empty(self.shape, self.kind)
        self.device.download(array, self.addresses["x"])
        self.device.upload(self.addresses["y"], array * array.dtype.type(2))
        return self.enqueues


def runner_of(kind: str = "float32", **fields: Any) -> tuple[TensorRtRunner, PretendedDevice]:
    device = PretendedDevice()
    numpy_kind = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    context = Doubler(device, kind=numpy_kind, **fields)
    specs = TensorSpec("x", kind, ("N", 3)), TensorSpec("y", kind, ("N", 3))
    return TensorRtRunner((specs[0],), (specs[1],), device, context), device


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int64"])
def test_values_go_in_and_come_out_by_name(kind: str) -> None:
    runner, _ = runner_of(kind)
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    x = np.arange(6).reshape(2, 3).astype(dtype)
    found = runner({"x": x})
    assert list(found) == ["y"]
    assert found["y"].dtype == dtype
    np.testing.assert_array_equal(found["y"], x * dtype_of(dtype)(2))


def dtype_of(dtype: Any) -> Any:
    return np.dtype(dtype).type


def test_a_transposed_view_is_copied_in_its_own_order() -> None:
    runner, _ = runner_of()
    x = np.arange(6, dtype=np.float32).reshape(3, 2).T
    np.testing.assert_array_equal(runner({"x": x})["y"], 2 * x)


def test_buffers_are_kept_and_grow() -> None:
    runner, device = runner_of()
    for batch in (2, 1, 2, 5, 5):
        x = np.full((batch, 3), batch, np.float32)
        np.testing.assert_array_equal(runner({"x": x})["y"], 2 * x)
    assert len(device.memory) == 2
    assert len(device.freed) == 2  # both buffers once, when the batch grew to 5


def test_results_are_not_overwritten_by_the_next_call() -> None:
    runner, _ = runner_of()
    first = runner({"x": np.ones((1, 3), np.float32)})["y"]
    runner({"x": np.zeros((1, 3), np.float32)})
    assert first.tolist() == [[2.0, 2.0, 2.0]]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "'x' is missing"),
        ({"x": np.ones((1, 3), np.float32), "z": np.ones(1)}, "'z' is not an input"),
        ({"x": np.ones((1, 3), np.float64)}, "'x' has dtype float64"),
        ({"x": np.ones(3, np.float32)}, r"1 dimensions \[3\]"),
        ({"x": np.ones((9, 3), np.float32)}, r"shape \[9, 3\].*range"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(feeds: dict[str, np.ndarray], message: str) -> None:
    runner, _ = runner_of()
    with pytest.raises(UsageError, match=message):
        runner(feeds)


def test_failures_of_the_engine_are_told() -> None:
    feeds = {"x": np.ones((1, 3), np.float32)}
    with pytest.raises(CannotRun, match="depends on the data"):
        runner_of(output_shape=(-1, 3))[0](feeds)
    with pytest.raises(CannotRun, match="could not enqueue"):
        runner_of(enqueues=False)[0](feeds)


def pretended_tensorrt(*, engine: object, validity: str = "VALID") -> SimpleNamespace:
    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None: ...

    class Runtime:
        def __init__(self, logger: Logger) -> None: ...

        def get_engine_validity(self, plan: bytes) -> tuple[str, int]:
            return validity, 42

        def deserialize_cuda_engine(self, plan: bytes) -> object:
            return engine

    return SimpleNamespace(
        Logger=Logger, Runtime=Runtime, EngineValidity=SimpleNamespace(INVALID="INVALID"), __version__="1.7"
    )


@contextmanager
def pretended_device() -> Iterator[PretendedDevice]:
    yield PretendedDevice()


@pytest.mark.parametrize(("validity", "message"), [("INVALID", "invalid here.*42"), ("VALID", "does not load")])
def test_an_engine_that_does_not_load_is_refused(validity: str, message: str) -> None:
    trt = pretended_tensorrt(engine=None, validity=validity)
    opened = open_runner(trt, b"plan", (), (), device=pretended_device)
    with pytest.raises(ArtifactRefused, match=message):
        opened.__enter__()


def test_an_engine_without_room_to_run_is_told() -> None:
    engine = SimpleNamespace(create_execution_context=lambda: None)
    with pytest.raises(CannotRun, match="no memory"):
        open_runner(pretended_tensorrt(engine=engine), b"plan", (), (), device=pretended_device).__enter__()


def test_a_scalar_stays_a_scalar() -> None:
    device = PretendedDevice()
    spec = TensorSpec("x", "float32", ())
    runner = TensorRtRunner((spec,), (TensorSpec("y", "float32", ()),), device, Doubler(device, least_rank=0))
    found = runner({"x": np.array(3.0, np.float32)})["y"]
    assert found.shape == ()
    assert found == 6.0


def test_an_engine_is_opened_and_released() -> None:
    engine = SimpleNamespace(create_execution_context=lambda: "context")
    with open_runner(pretended_tensorrt(engine=engine), b"plan", (), (), device=pretended_device) as runner:
        assert runner.context == "context"
    assert runner.context is None


class PretendedDriver:
    """libcuda with host memory for device memory; `failing` names a function that fails."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.kept: dict[int, Any] = {}

    def code(self, name: str) -> int:
        return 2 if name == self.failing else 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:  # noqa: N802
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.kept[ctypes.addressof(block)] = block
        return self.code("cuMemAlloc_v2")

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        return 0 if self.kept.pop(address.value, None) is not None else 1

    def cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:  # noqa: N802
        ctypes.memmove(to.value, source.value, size.value)
        return 0

    def cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:  # noqa: N802
        ctypes.memmove(to.value, source.value, size.value)
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        return self.code("cuStreamSynchronize")

    def cuGetErrorName(self, code: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"CUDA_ERROR_OUT_OF_MEMORY"
        return 0


def test_memory_goes_through_the_driver() -> None:
    driver = PretendedDriver()
    device = CudaDevice(driver)
    source, result = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    address = device.allocate(source.nbytes)
    device.upload(address, source)
    device.download(result, address)
    np.testing.assert_array_equal(result, source)
    device.free(address)
    assert not driver.kept
    assert not device.owned


@pytest.mark.parametrize("function", ["cuMemAlloc_v2", "cuStreamSynchronize"])
def test_a_failing_driver_call_is_named(function: str) -> None:
    device = CudaDevice(PretendedDriver(function))
    with pytest.raises(CannotRun, match=f"{function}: CUDA_ERROR_OUT_OF_MEMORY"):
        (device.allocate if function == "cuMemAlloc_v2" else lambda _: device.synchronize())(16)
