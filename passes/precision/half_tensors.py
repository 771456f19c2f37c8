"""Float32 constants looked at block by block, and their half-precision twins, made when they are written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.matching import constant_tensor

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.precision.overflow import HalfFormat

INFINITE_FROM = 1e30
"""A constant of this magnitude or more means infinity (a mask)."""

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """What a constant holds: `peak` and `root_mean_square` over its finite entries that are no masks and not zero."""

    count: int
    peak: float = 0.0
    root_mean_square: float = 0.0
    masks: int = 0
    infinities: int = 0


@dataclass(slots=True)
class Constants:
    """The magnitudes of a graph's float32 constants, each looked at once."""

    _found: dict[ir.Value, Magnitudes] = field(default_factory=dict)

    def magnitudes(self, value: ir.Value | None) -> Magnitudes | None:
        """Return what a float32 constant holds; None for any other value."""
        tensor = constant_tensor(value)
        if value is None or tensor is None or tensor.dtype.name != "FLOAT":
            return None
        if value not in self._found:
            self._found[value] = magnitudes_of(tensor)
        return self._found[value]


def magnitudes_of(tensor: ir.TensorProtocol) -> Magnitudes:
    """Return the magnitudes of a float32 tensor, read in blocks that are let go of again."""
    peak, squares, counted, masks, infinities = 0.0, 0.0, 0, 0, 0
    for block in _blocks(tensor):
        sizes = np.abs(block)
        if not (float(sizes.max(initial=0.0)) < INFINITE_FROM):  # a mask, an infinity or a NaN
            endless = int(np.isinf(sizes).sum())
            infinities += endless
            masks += int((sizes >= INFINITE_FROM).sum()) - endless
            sizes = sizes[sizes < INFINITE_FROM]
        peak = max(peak, float(sizes.max(initial=0.0)))
        squares += float(np.square(sizes, dtype=np.float64).sum())
        counted += int(np.count_nonzero(sizes))
    mean = math.sqrt(squares / counted) if counted else 0.0
    return Magnitudes(int(tensor.size), peak, mean, masks, infinities)


def _blocks(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[np.float32]]:
    import onnx_ir as ir

    from passes.data_file import read_elements

    if not isinstance(tensor, ir.ExternalTensor):
        flat = np.asarray(tensor.numpy(), np.float32).reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield flat[start : start + _BLOCK]
        return
    for start in range(0, tensor.size, _BLOCK):
        yield read_elements(tensor, start, min(_BLOCK, tensor.size - start))


def halved(tensor: ir.TensorProtocol, half: HalfFormat, name: str) -> ir.TensorProtocol:
    """Return the twin of a float32 tensor in half precision, converted when its content is asked for.

    Finite entries beyond the type's greatest number become the type's mask, infinities stay.
    """
    import onnx_ir as ir

    dtype = ir.DataType[half.name]

    def convert() -> ir.TensorProtocol:
        from passes.serialization import read_tensor

        source = read_tensor(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor
        array = np.asarray(source.numpy(), np.float32)
        beyond = np.isfinite(array) & (np.abs(array) > half.greatest)
        if beyond.any():
            array = np.where(beyond, np.copysign(np.float32(half.mask), array), array)
        return ir.Tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)

    return ir.LazyTensor(convert, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)
