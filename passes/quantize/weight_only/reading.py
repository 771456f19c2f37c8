"""A weight some columns at a time, so that one larger than memory can be quantized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from passes.serialization import read_rows

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.quantize.weight_only.blocks import Floats

PANEL_BYTES = 32 << 20


def panels(tensor: ir.TensorProtocol, axis: int, *, panel_bytes: int = PANEL_BYTES) -> Iterator[tuple[int, Floats]]:
    """Yield the first column and the content [K, n] of each panel of a matrix whose K runs along `axis`, in float32."""
    rows, columns = (int(tensor.shape.numpy()[each]) for each in (axis, 1 - axis))
    step = max(1, panel_bytes // max(1, 4 * rows))
    for start in range(0, columns, step):
        count = min(step, columns - start)
        part = read_rows(tensor, start, count).T if axis == 1 else _columns(tensor, start, count)
        yield start, np.ascontiguousarray(part, dtype=np.float32)


def _columns(tensor: ir.TensorProtocol, start: int, count: int) -> np.ndarray:
    """Return columns of a matrix; of one that lies in a file nothing else is read or mapped."""
    import onnx_ir as ir

    from passes.data_file import read_elements

    rows, width = (int(size) for size in tensor.shape.numpy())
    if count == width:
        return read_rows(tensor, 0, rows)
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()[:, start : start + count]
    found = np.empty((rows, count), dtype=tensor.dtype.numpy())
    for row in range(rows):
        found[row] = read_elements(tensor, row * width + start, count)
    return found
