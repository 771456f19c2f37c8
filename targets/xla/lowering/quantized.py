"""Quantization operators. DequantizeLinear stays lazy, so that the product after it can be taken in int8."""

from __future__ import annotations

from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.casting import converted
from targets.xla.lowering.direct import numbers
from targets.xla.lowering.integer import integer_product
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Dequantized, Unsupported, is_scalar, spread
from targets.xla.lowering.windows import window_of

_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1), "uint16": (0, (1 << 16) - 1)}
_NARROW = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}


@lowers("QuantizeLinear", since=10)
def quantize(call: Call, x: Any, scale: Any, zero_point: Any = None) -> Any:
    """Return round(x / scale) + zero_point, saturated; halves round to even."""
    import jax.numpy as jnp

    x, scale = jnp.asarray(x), jnp.asarray(scale)
    if zero_point is not None:
        dtype = np.dtype(zero_point.dtype)
    else:
        dtype = (
            np.dtype(call.dtype(call.integer("output_dtype"))) if call.integer("output_dtype") else np.dtype(np.uint8)
        )
    # Without a precision attribute the division is done in the scale's type; float32 is never less exact.
    wide = jnp.result_type(x.dtype, scale.dtype, jnp.float32)
    step, zero = _parameters(call, x, scale, zero_point)
    divided = x.astype(wide) / step.astype(wide)
    if dtype.name.startswith("float8"):
        shifted = divided if zero is None else divided + zero.astype(wide)
        return converted(shifted, dtype, saturate=bool(call.integer("saturate", 1)))
    if dtype.name not in _RANGES and dtype.name not in _NARROW:
        raise Unsupported(f"quantization to {dtype.name}")
    low, high = {**_RANGES, **_NARROW}[dtype.name]
    rounded = jnp.rint(divided)
    shifted = rounded if zero is None else rounded + zero.astype(wide)
    return jnp.clip(shifted, low, high).astype(dtype)


def _parameters(call: Call, x: Any, scale: Any, zero_point: Any) -> tuple[Any, Any]:
    """Return scale and zero point shaped to broadcast over x: per tensor, per axis, or per block of an axis."""
    import jax.numpy as jnp

    block = call.integer("block_size")
    axis = call.integer("axis", 1)
    if not block:
        zero = None if zero_point is None else spread(jnp.asarray(zero_point), axis, x.ndim)
        return spread(scale, axis, x.ndim), zero

    def repeated(parameter: Any) -> Any:
        longer = jnp.repeat(jnp.asarray(parameter), block, axis=axis)
        index = [slice(None)] * x.ndim
        index[axis] = slice(0, x.shape[axis])
        return longer[tuple(index)]

    return repeated(scale), None if zero_point is None else repeated(zero_point)


@lowers("DequantizeLinear", since=10)
def dequantize(call: Call, x: Any, scale: Any, zero_point: Any = None) -> Any:
    """Return (x - zero_point) * scale: lazily, but for blocks."""
    import jax.numpy as jnp

    if call.integer("output_dtype"):
        float_type = call.dtype(call.integer("output_dtype"))
    else:
        float_type = call.float_type if scale.dtype == np.float32 else scale.dtype
    if not call.integer("block_size"):
        if zero_point is not None and np.size(zero_point) == 1 and scale.size > 1:
            zero_point = None if isinstance(zero_point, np.ndarray) and not zero_point.any() else zero_point
        axis = call.integer("axis", 1) % max(x.ndim, 1)
        return Dequantized(x, scale, zero_point, axis, float_type)
    x = jnp.asarray(x)
    axis, block = call.integer("axis", 1) % x.ndim, call.integer("block_size")
    if isinstance(x.shape[axis], int) and x.shape[axis] % block == 0:
        return _dequantized_blocks(x, jnp.asarray(scale), zero_point, axis, block).astype(float_type)
    step, zero = _parameters(call, x, jnp.asarray(scale), zero_point)
    whole = x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.float32)
    if zero is not None:
        whole = whole - zero.astype(whole.dtype)
    return (whole.astype(jnp.float32) * step.astype(jnp.float32)).astype(float_type)


def _dequantized_blocks(x: Any, scale: Any, zero_point: Any, axis: int, block: int) -> Any:
    """Return (x - zero_point) * scale in float32, with an axis for the blocks: no parameter is repeated in memory."""
    import jax.numpy as jnp

    split = (*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])
    whole = x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.float32)
    whole = whole.reshape(split)
    if zero_point is not None:
        whole = whole - jnp.expand_dims(jnp.asarray(zero_point), axis + 1).astype(whole.dtype)
    real = whole.astype(jnp.float32) * jnp.expand_dims(scale, axis + 1).astype(jnp.float32)
    return real.reshape(x.shape)


@lowers("DynamicQuantizeLinear", since=11)
def dynamic_quantize(call: Call, x: Any) -> Any:
    """Return x as uint8 with the scale and zero point of its own range, zero included."""
    import jax.numpy as jnp

    low, high = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    scale = (high - low) / 255
    safe = jnp.where(scale == 0, 1, scale)
    zero = jnp.clip(jnp.rint(-low / safe), 0, 255)
    y = jnp.clip(jnp.rint(x / safe) + zero, 0, 255).astype(jnp.uint8)
    return y, scale.astype(jnp.float32), zero.astype(jnp.uint8)


def _minus(x: Any, zero: Any, *, row: bool = False) -> Any:
    """Return int32 x - zero; a zero point [M] of a matrix's rows goes along its second to last axis."""
    import jax.numpy as jnp

    wide = jnp.asarray(x).astype(jnp.int32)
    if zero is None:
        return wide
    zero = jnp.asarray(zero).astype(jnp.int32)
    if row and zero.ndim == 1 and zero.size > 1:
        zero = zero[:, None]
    return wide - zero


@lowers("MatMulInteger", since=10)
def matmul_integer(call: Call, a: Any, b: Any, zero_a: Any = None, zero_b: Any = None) -> Any:
    import jax.numpy as jnp

    if min(len(a.shape), len(b.shape)) > 1 and is_scalar(zero_a):
        # In int8 with corrections for the zero points: int32 products are several times slower.
        return integer_product(Dequantized(a, None, zero_a, 0, None), Dequantized(b, None, zero_b, 0, None))
    return jnp.matmul(_minus(a, zero_a, row=True), _minus(b, zero_b))


@lowers("ConvInteger", since=10)
def convolution_integer(call: Call, x: Any, w: Any, zero_x: Any = None, zero_w: Any = None) -> Any:
    import jax.numpy as jnp
    from jax import lax

    window = window_of(call, x.shape[2:], w.shape[2:])
    zero = None if zero_w is None else spread(jnp.asarray(zero_w), 0, w.ndim)
    return lax.conv_general_dilated(
        _minus(x, zero_x),
        _minus(w, zero),
        window_strides=window.strides,
        padding=window.pads,
        rhs_dilation=window.dilations,
        dimension_numbers=numbers(x.ndim),
        feature_group_count=call.integer("group", 1),
    )


def _requantized(total: Any, factor: Any, zero: Any) -> Any:
    import jax.numpy as jnp

    dtype = np.dtype(zero.dtype)
    if dtype.name not in _RANGES:
        raise Unsupported(f"quantization to {dtype.name}")
    low, high = _RANGES[dtype.name]
    moved = jnp.rint(total.astype(jnp.float32) * factor) + jnp.asarray(zero).astype(jnp.float32)
    return jnp.clip(moved, low, high).astype(dtype)


@lowers("QLinearMatMul", since=10)
def quantized_matmul(
    call: Call, a: Any, scale_a: Any, zero_a: Any, b: Any, scale_b: Any, zero_b: Any, scale_y: Any, zero_y: Any
) -> Any:
    import jax.numpy as jnp

    total = jnp.matmul(_minus(a, zero_a, row=True), _minus(b, zero_b))
    rows = jnp.asarray(scale_a)
    rows = rows[:, None] if rows.ndim == 1 and rows.size > 1 else rows
    factor = (
        rows.astype(jnp.float32) * jnp.asarray(scale_b).astype(jnp.float32) / jnp.asarray(scale_y).astype(jnp.float32)
    )
    return _requantized(total, factor, zero_y)


@lowers("QLinearConv", since=10)
def quantized_convolution(
    call: Call,
    x: Any,
    scale_x: Any,
    zero_x: Any,
    w: Any,
    scale_w: Any,
    zero_w: Any,
    scale_y: Any,
    zero_y: Any,
    bias: Any = None,
) -> Any:
    import jax.numpy as jnp

    total = convolution_integer(call, x, w, zero_x, zero_w)
    channels = [1, -1] + [1] * (x.ndim - 2)
    if bias is not None:
        total = total + jnp.reshape(bias, channels)
    scale = jnp.asarray(scale_w)
    scale = scale.reshape(channels) if scale.size > 1 else scale.reshape(())
    return _requantized(total, scale_x * scale / scale_y, zero_y)
