"""Conversions between element types."""

from __future__ import annotations

from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unsupported


@lowers("Cast", since=6)
def cast(call: Call, x: Any) -> Any:
    return converted(x, call.dtype(call.integer("to")), saturate=bool(call.integer("saturate", 1)))


@lowers("CastLike", since=15)
def cast_like(call: Call, x: Any, like: Any) -> Any:
    return converted(x, np.dtype(like.dtype), saturate=bool(call.integer("saturate", 1)))


@lowers("BitCast", since=26)
def bit_cast(call: Call, x: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    x, dtype = jnp.asarray(x), np.dtype(call.dtype(call.integer("to")))
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    return x != 0 if dtype.kind == "b" else lax.bitcast_convert_type(x, dtype)


def converted(x: Any, dtype: Any, *, saturate: bool) -> Any:
    """Return x in another type; to an 8-bit float out-of-range values become the largest one when `saturate`."""
    import jax.numpy as jnp
    from jax import lax

    dtype = np.dtype(dtype)
    if dtype.kind in "OSU":
        raise Unsupported("strings have no counterpart in XLA")
    x = jnp.asarray(x)
    if dtype == np.bool_:
        return x != 0
    if dtype.name.startswith("float8") and jnp.issubdtype(x.dtype, jnp.floating):
        if dtype.name == "float8_e8m0fnu":
            raise Unsupported("rounding to float8e8m0 is not defined by XLA as ONNX defines it")
        if saturate:
            limit = float(jnp.finfo(dtype).max)
            x = jnp.where(jnp.isnan(x), x, jnp.clip(x, -limit, limit))
    if jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        # Through a wide integer, so that out-of-range values wrap as they do in C and numpy.
        return lax.convert_element_type(lax.convert_element_type(x, jnp.int32), dtype)
    return lax.convert_element_type(x, dtype)
