"""Device memory and a stream through libcuda itself: no package is needed beyond the GPU's driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from passes.errors import CannotRun

if TYPE_CHECKING:
    from targets.base import Array

_LIBRARY = "libcuda.so.1"


class Device(Protocol):
    """What a runner needs of a GPU."""

    stream: int

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory, released when the device is closed or by `free`."""
        ...

    def free(self, address: int) -> None: ...

    def upload(self, address: int, array: Array) -> None:
        """Copy a C-contiguous array to the device, in stream order; its memory may be reused on return."""
        ...

    def download(self, array: Array, address: int) -> None:
        """Fill a C-contiguous array from the device, after all work of the stream."""
        ...

    def synchronize(self) -> None:
        """Wait for all work of the stream, and raise CannotRun if any of it failed."""
        ...


@dataclass(slots=True)
class CudaDevice:
    """The first GPU's primary context, the one that TensorRT uses, and one stream. Driver API of CUDA 11 and later."""

    library: Any
    stream: int = 0
    owned: set[int] = field(default_factory=set)

    def call(self, function: str, *arguments: object) -> None:
        """Call a driver function; raises CannotRun with the driver's own name of the failure."""
        code = getattr(self.library, function)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(code, ctypes.byref(text))
            name = text.value.decode() if text.value else f"error {code}"
            raise CannotRun(f"The GPU's driver failed in {function}: {name}.", hint="Check the GPU with nvidia-smi.")

    def allocate(self, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        self.owned.add(address.value)
        return address.value

    def free(self, address: int) -> None:
        self.owned.discard(address)
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        # From pageable memory the driver stages the data before it returns, so the array may be reused.
        self.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def download(self, array: Array, address: int) -> None:
        self.call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )
        self.synchronize()

    def synchronize(self) -> None:
        self.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))


@contextmanager
def open_device() -> Iterator[CudaDevice]:
    """Yield the first GPU; its memory and stream are released at the end. Raises CannotRun without a driver."""
    try:
        device = CudaDevice(ctypes.CDLL(_LIBRARY))
    except OSError as error:
        raise CannotRun(f"The NVIDIA driver's {_LIBRARY} cannot be loaded: {error}.") from error
    handle, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    device.call("cuInit", 0)
    device.call("cuDeviceGet", ctypes.byref(handle), 0)
    device.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    try:
        device.call("cuCtxSetCurrent", context)
        stream_is_non_blocking = 1
        device.call("cuStreamCreate", ctypes.byref(stream), stream_is_non_blocking)
        device.stream = stream.value or 0
        try:
            yield device
        finally:
            for address in tuple(device.owned):
                device.free(address)
            device.call("cuStreamDestroy_v2", stream)
    finally:
        device.call("cuDevicePrimaryCtxRelease_v2", handle)
