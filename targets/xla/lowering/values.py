"""Values at trace time: known numpy arrays, arrays of symbolic dimensions, and tensors not yet dequantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Unknown(Exception):
    """An operator needs a value at trace time that is only known when the program runs."""


class Unsupported(Exception):
    """An operator is used in a way that the lowering does not cover."""


@dataclass(frozen=True, slots=True)
class Dequantized:
    """The result of DequantizeLinear before any arithmetic: (q - zero_point) * scale along `axis`.

    scale: one number, or one for each index of `axis`. zero_point: None, or as `scale`; known at trace time or traced.
    """

    quantized: Any
    scale: Any
    zero_point: Any
    axis: int
    float_type: Any

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self.quantized.shape)

    def as_float(self) -> Any:
        """Return the float tensor that ONNX defines: subtract in int32 or wider, then scale."""
        import jax.numpy as jnp

        q = jnp.asarray(self.quantized)
        scale = spread(jnp.asarray(self.scale), self.axis, q.ndim)
        if jnp.issubdtype(q.dtype, jnp.integer):
            wide = q.astype(jnp.int32)
            if self.zero_point is not None:
                wide = wide - spread(jnp.asarray(self.zero_point), self.axis, q.ndim).astype(jnp.int32)
            return (wide.astype(jnp.float32) * scale.astype(jnp.float32)).astype(self.float_type)
        wide = q.astype(jnp.float32)
        if self.zero_point is not None:
            wide = wide - spread(jnp.asarray(self.zero_point), self.axis, q.ndim).astype(jnp.float32)
        return (wide * scale.astype(jnp.float32)).astype(self.float_type)


def spread(parameter: Any, axis: int, rank: int) -> Any:
    """Return a per-axis parameter [C] reshaped to broadcast along `axis` of a tensor of `rank`; scalars as they are."""
    if parameter.ndim == 0 or parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * rank
    shape[axis] = parameter.shape[0]
    return parameter.reshape(shape)


def is_host(value: Any) -> bool:
    """Return whether a value is known at trace time, perhaps in terms of symbolic dimensions."""
    return isinstance(value, np.ndarray | np.generic)


def is_scalar(value: Any) -> bool:
    """Return whether a scale or zero point is absent or one number."""
    return value is None or value.size == 1


def is_symbolic(value: Any) -> bool:
    """Return whether a value is an array that holds symbolic dimensions."""
    return isinstance(value, np.ndarray) and value.dtype == object


def host_dims(dims: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return a shape as an int64 array [rank], or as an object array where a dimension is symbolic."""
    if all(isinstance(dim, int | np.integer) for dim in dims):
        return np.array([int(dim) for dim in dims], dtype=np.int64)
    return object_array(dims, (len(dims),))


def object_array(elements: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return an array of `shape` that holds ints and symbolic dimensions; int64 when all are ints."""
    flat = [int(element) if isinstance(element, int | np.integer) else element for element in elements]
    if all(isinstance(element, int) for element in flat):
        return np.array(flat, dtype=np.int64).reshape(shape)
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def dims_from(value: Any, what: str) -> tuple[Any, ...]:
    """Return the ints and symbolic dimensions of a known 1-d value. Raises Unknown for a traced one."""
    if not is_host(value):
        raise Unknown(f"{what} depends on the data")
    return tuple(int(dim) if isinstance(dim, int | np.integer) else dim for dim in np.asarray(value).reshape(-1))


def ints_from(value: Any, what: str) -> list[int]:
    """Return the plain integers of a known value. Raises Unknown for a traced or symbolic one."""
    dims = dims_from(value, what)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        dims = tuple(int(dim) for dim in dims)  # OneHot's depth may be a float
    if not all(isinstance(dim, int) for dim in dims):
        raise Unknown(f"{what} depends on a symbolic dimension")
    return list(dims)


def widened(x: Any) -> Any:
    """Return a float tensor in float32 at least, for sums that need its range and digits; others as they are."""
    import jax.numpy as jnp

    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4 else x


def on_device(value: Any) -> Any:
    """Return a value as what jax computes with; symbolic dimensions become int64 scalars of the running program."""
    import jax.numpy as jnp

    if isinstance(value, Dequantized):
        return value.as_float()
    if is_symbolic(value):
        parts = [jnp.asarray(dim, dtype=jnp.int64) for dim in value.reshape(-1).tolist()]
        return jnp.stack(parts).reshape(value.shape) if value.ndim else parts[0]
    return value
