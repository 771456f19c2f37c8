"""New weights on disk instead of in memory: an unnamed file that lives as long as a tensor of it does."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK_BYTES = 1 << 22


@dataclass(eq=False, slots=True)
class SpillFile:
    """A temporary file without a name (in TMPDIR): it is gone when the last tensor that lies in it is."""

    _file: BinaryIO | None = None
    _size: int = field(default=0)

    def tensor(self, array: np.ndarray, dtype: ir.DataType, shape: Sequence[int], name: str) -> SpilledTensor:
        """Return a tensor that lies in this file; `array` holds its bytes, each with two elements of a 4-bit dtype."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="graphwright-")  # noqa: SIM115 - open as long as its tensors
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        offset, self._size = self._size, self._size + content.nbytes
        self._file.seek(offset)
        self._file.write(content.data)
        self._file.flush()
        return SpilledTensor(self, offset, content.nbytes, dtype, shape, name)

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on."""
        assert self._file is not None
        data = b""
        while len(data) < count:  # the kernel returns at most 2 GiB at once
            piece = os.pread(self._file.fileno(), count - len(data), offset + len(data))
            if not piece:
                raise OSError(f"A temporary file of weights ends {count - len(data)} bytes too early.")
            data += piece
        return data


class SpilledTensor(ir.LazyTensor):
    """A tensor in a SpillFile: read when it is asked for, and never kept."""

    def __init__(
        self, file: SpillFile, offset: int, length: int, dtype: ir.DataType, shape: Sequence[int], name: str
    ) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        super().__init__(self._read, dtype=dtype, shape=ir.Shape(shape), name=name)

    def _read(self) -> ir.TensorProtocol:
        content = np.frombuffer(self._file.read(self._offset, self._length), np.uint8)
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(content, self.dtype, shape=self.shape, name=self.name)
        array = content.view(self.dtype.numpy()).reshape(self.shape.numpy())
        return ir.Tensor(array, dtype=self.dtype, name=self.name)

    def tofile(self, file: BinaryIO) -> None:
        """Append the content, a piece at a time."""
        for start in range(0, self._length, _CHUNK_BYTES):
            file.write(self._file.read(self._offset + start, min(_CHUNK_BYTES, self._length - start)))
