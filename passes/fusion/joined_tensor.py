"""Matrices of other matrices' columns, which are read some rows at a time while they are written to a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from passes.serialization import read_rows

_BUFFER_BYTES = 1 << 21

Rows = Callable[[int, int], np.ndarray]
"""From the first row and a count to these rows."""


class _RowsTensor(ir.LazyTensor):
    """A matrix [K, N] that `rows(start, count)` makes some rows of."""

    def __init__(self, rows: Rows, dtype: ir.DataType, shape: tuple[int, int], name: str) -> None:
        self._block = rows
        self._rows = shape[0]
        super().__init__(self._whole, dtype=dtype, shape=ir.Shape(shape), name=name)

    def _whole(self) -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(self._block(0, self._rows)), dtype=self.dtype, name=self.name)

    def tofile(self, file: BinaryIO) -> None:
        """Append the content, made in blocks small enough for the processor's cache."""
        if self.dtype.bitwidth < 8:  # a row need not end with a byte
            super().tofile(file)
            return
        step = max(1, _BUFFER_BYTES * self._rows // max(self.nbytes, 1))
        for start in range(0, self._rows, step):
            block = self._block(start, min(step, self._rows - start))
            file.write(np.ascontiguousarray(block).view(np.uint8).data)  # transposed parts join to columns first


class JoinedTensor(_RowsTensor):
    """The tensors [K, N1], [K, N2], ... as one [K, N1 + N2 + ..]; none is read before this one is."""

    def __init__(self, parts: Sequence[ir.TensorProtocol], name: str) -> None:
        self.parts = parts
        self.widths = [int(part.shape.numpy()[1]) for part in parts]
        rows = int(parts[0].shape.numpy()[0])
        super().__init__(self._joined, parts[0].dtype, (rows, sum(self.widths)), name)

    def _joined(self, start: int, count: int) -> np.ndarray:
        return np.concatenate([read_rows(part, start, count) for part in self.parts], axis=1)


def columns_of(tensor: ir.TensorProtocol, start: int, width: int, name: str) -> ir.TensorProtocol:
    """Return columns `start` to `start + width` of a matrix; a tensor that was joined whole is given back itself."""
    if isinstance(tensor, JoinedTensor):
        places = np.cumsum([0, *tensor.widths]).tolist()
        for part, place in zip(tensor.parts, places[:-1], strict=True):
            if place == start and int(part.shape.numpy()[1]) == width:
                return part

    def rows(first: int, count: int) -> np.ndarray:
        return read_rows(tensor, first, count)[:, start : start + width]

    return _RowsTensor(rows, tensor.dtype, (int(tensor.shape.numpy()[0]), width), name)
