"""A matrix of other matrices side by side, which is read some rows at a time while it is written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from passes.serialization import read_rows

_BUFFER_BYTES = 1 << 21


class JoinedTensor(ir.LazyTensor):
    """The tensors [K, N1], [K, N2], ... as one [K, N1 + N2 + ..]; none is read before this one is."""

    def __init__(self, parts: Sequence[ir.TensorProtocol], name: str) -> None:
        self._parts = parts
        self._widths = [int(part.shape.numpy()[1]) for part in parts]
        self._rows = int(parts[0].shape.numpy()[0])
        shape = ir.Shape([self._rows, sum(self._widths)])
        super().__init__(self._join, dtype=parts[0].dtype, shape=shape, name=name)

    def _join(self) -> ir.TensorProtocol:
        return ir.Tensor(self._block(0, self._rows), dtype=self.dtype, name=self.name)

    def _block(self, start: int, count: int) -> np.ndarray:
        return np.concatenate([read_rows(part, start, count) for part in self._parts], axis=1)

    def tofile(self, file: BinaryIO) -> None:
        """Append the content, made in blocks small enough for the processor's cache."""
        if self.dtype.bitwidth < 8:  # a row need not end with a byte
            super().tofile(file)
            return
        step = max(1, _BUFFER_BYTES * self._rows // max(self.nbytes, 1))
        for start in range(0, self._rows, step):
            block = self._block(start, min(step, self._rows - start))
            file.write(np.ascontiguousarray(block).view(np.uint8).data)  # transposed parts join to columns first
