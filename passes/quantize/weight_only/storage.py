"""Block codes as ONNX stores them: INT4, UINT4, INT8 or UINT8, in the layout that the weight had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.quantize.weight_only.blocks import Codes, Grid


def code_type(grid: Grid) -> ir.DataType:
    """Return the type of a grid's codes: signed where symmetric, so that no zero point is stored."""
    import onnx_ir as ir

    names = {(4, True): "INT4", (4, False): "UINT4", (8, True): "INT8", (8, False): "UINT8"}
    return ir.DataType[names[grid.bits, grid.symmetric]]


def stored_bytes(codes: Codes, grid: Grid) -> Codes:
    """Return codes, one a byte, as the bytes of a tensor of `code_type`.

    A signed code is the unsigned one less `middle`, so its highest bit is flipped. Two 4-bit codes share a byte, the
    first in the lower half, rows running on without a gap, as the ONNX specification lays INT4 out.
    """
    flipped = codes ^ np.uint8(grid.middle) if grid.symmetric else codes
    return packed_nibbles(flipped) if grid.bits == 4 else np.ascontiguousarray(flipped)


def packed_nibbles(codes: Codes) -> Codes:
    """Return [(n + 1) // 2] bytes of n 4-bit codes, the first of two in the lower half."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return np.asarray(flat[0::2] | (flat[1::2] << 4), np.uint8)


def unpacked_nibbles(data: Codes, count: int) -> Codes:
    """Return the first `count` codes of packed bytes, one a byte."""
    codes = np.empty(data.size * 2, np.uint8)
    codes[0::2] = data & 0x0F
    codes[1::2] = data >> 4
    return codes[:count]


def unsigned_codes(tensor: ir.TensorProtocol) -> Codes:
    """Return a stored tensor's codes, one a byte, counted from 0: the inverse of `stored_bytes`, in its shape."""
    import onnx_ir as ir

    shape = tuple(tensor.shape.numpy())
    data = np.frombuffer(tensor.tobytes(), np.uint8)
    if tensor.dtype.bitwidth == 4:
        data = unpacked_nibbles(data, int(np.prod(shape)))
    middle = {ir.DataType.INT4: 8, ir.DataType.INT8: 128}.get(tensor.dtype, 0)
    return np.asarray(data ^ np.uint8(middle), np.uint8).reshape(shape)
