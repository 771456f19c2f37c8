"""Tensors from numpy arrays and back, bfloat16 and the 8-bit floats included, which numpy alone does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    import torch

    from targets.base import Array

_CARRIERS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
"""Types that torch and ml_dtypes name alike, and the integer type through which their bits pass."""


def tensor_from_array(array: Array, device: torch.device | None = None) -> torch.Tensor:
    """Return a tensor of the array's values; the memory is shared where torch can (it needs it writable)."""
    import torch

    array = np.ascontiguousarray(array).reshape(array.shape)
    if not array.flags.writeable:
        array = array.copy()
    name = array.dtype.name
    if name in _CARRIERS:
        tensor = torch.from_numpy(array.view(_CARRIERS[name])).view(getattr(torch, name))
    else:
        tensor = torch.from_numpy(array)
    return tensor if device is None else tensor.to(device)


def array_from_tensor(tensor: torch.Tensor) -> Array:
    """Return a numpy array of the tensor's values, on the CPU."""
    import torch

    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = dtype_name(tensor)
    if name in _CARRIERS:
        import ml_dtypes

        bits = tensor.contiguous().view(getattr(torch, _CARRIERS[name])).numpy()
        return cast("Array", bits.view(getattr(ml_dtypes, name)))
    return cast("Array", tensor.numpy())


def dtype_name(tensor: torch.Tensor) -> str:
    """Return numpy's name of the tensor's type: "float32", "bool", "bfloat16"."""
    return str(tensor.dtype).removeprefix("torch.")
