"""int8 products with int32 accumulation: what XLA does not make of Q/DQ by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from targets.xla.lowering.direct import float_convolution, settings_of
from targets.xla.lowering.values import Dequantized, is_host, is_scalar
from targets.xla.lowering.windows import Window

_FLOAT32_EXACT = 1 << 24
_LARGEST_PRODUCT = 128 * 128


def _is_eight_bits(x: Any) -> bool:
    return np.dtype(x.dtype) in (np.dtype(np.int8), np.dtype(np.uint8))


def as_int8(x: Dequantized) -> tuple[Any, Any]:
    """Return the quantized tensor as int8 and its zero point as int32, or None for zero; uint8 is moved by 128."""
    import jax.numpy as jnp

    q, zero = jnp.asarray(x.quantized), x.zero_point
    if np.dtype(q.dtype) == np.uint8:
        shift = np.asarray(-128, np.int32)
        moved = shift if zero is None else jnp.asarray(zero).astype(jnp.int32) + shift
        if is_host(zero):
            moved = np.asarray(zero).astype(np.int32) + shift
        return (q ^ np.uint8(0x80)).view(jnp.int8), _nonzero(moved)
    return q, _nonzero(zero if zero is None else _as_int32(zero))


def _as_int32(zero: Any) -> Any:
    import jax.numpy as jnp

    return np.asarray(zero).astype(np.int32) if is_host(zero) else jnp.asarray(zero).astype(jnp.int32)


def _nonzero(zero: Any) -> Any:
    return None if zero is None or (is_host(zero) and not np.any(zero)) else zero


def integer_matmul(a: Dequantized, b: Dequantized) -> Any:
    """Return the float product of a [..., M, K] and b [..., K, N] by int8 arithmetic, or None where it can't be done.

    It can when both are 8-bit, `a` has one scale, and `b` one scale or one for each column.
    """
    rank_a, rank_b = len(a.shape), len(b.shape)
    if not (_is_eight_bits(a.quantized) and _is_eight_bits(b.quantized)) or min(rank_a, rank_b) < 2:
        return None
    if not (is_scalar(a.scale) and is_scalar(a.zero_point)):
        return None
    if not is_scalar(b.scale) and b.axis % rank_b != rank_b - 1:
        return None
    total = integer_product(a, b)
    return scaled(total, _scalar(a.scale) * _flat(b.scale), a.float_type)


def integer_product(a: Dequantized, b: Dequantized) -> Any:
    """Return the int32 sum over k of (qa - za)(qb - zb), the zero point of `a` being one number or none."""
    import jax.numpy as jnp

    qa, zero_a = as_int8(a)
    qb, zero_b = as_int8(b)
    total = jnp.matmul(qa, qb, preferred_element_type=jnp.int32)  # [..., M, N]
    # sum_k (qa - za)(qb - zb) = sum qa qb - za sum qb - zb sum qa + K za zb
    if zero_a is not None:
        total = total - jnp.reshape(zero_a, ()) * jnp.sum(qb, axis=-2, keepdims=True, dtype=jnp.int32)
    if zero_b is not None:
        total = total - zero_b * jnp.sum(qa, axis=-1, keepdims=True, dtype=jnp.int32)
    if zero_a is not None and zero_b is not None:
        total = total + jnp.asarray(qa.shape[-1], jnp.int32) * jnp.reshape(zero_a, ()) * zero_b
    return total


def scaled(total: Any, scale: Any, float_type: Any) -> Any:
    import jax.numpy as jnp

    return (total.astype(jnp.float32) * scale).astype(float_type)


def _scalar(value: Any) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(value).astype(jnp.float32).reshape(())


def _flat(value: Any) -> Any:
    import jax.numpy as jnp

    value = jnp.asarray(value).astype(jnp.float32)
    return value.reshape(()) if value.size == 1 else value


def integer_convolution(x: Dequantized, w: Dequantized, window: Window, groups: int) -> Any:
    """Return the float convolution of x [N, C, ...] and w [O, C/g, ...] by int8 arithmetic, or None.

    It can when both are 8-bit, x has one scale and w one scale or one for each output channel. Padding stands for real
    zero, so x is padded with its zero point.
    """
    import jax.numpy as jnp
    from jax import lax

    if not (_is_eight_bits(x.quantized) and _is_eight_bits(w.quantized)):
        return None
    if not (is_scalar(x.scale) and is_scalar(x.zero_point)):
        return None
    if not is_scalar(w.scale) and w.axis % len(w.shape) != 0:
        return None
    qx, zero_x = as_int8(x)
    qw, zero_w = as_int8(w)
    if zero_w is not None:
        return None
    if zero_x is not None and any(pad != (0, 0) for pad in window.pads):
        fill = jnp.reshape(zero_x, ()).astype(jnp.int8)
        qx = lax.pad(qx, fill, [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in window.pads)])
        window = replace(window, pads=[(0, 0)] * len(window.pads))
    total = exact_convolution(qx, qw, window, groups)
    channels = [1, -1] + [1] * (total.ndim - 2)
    if zero_x is not None:
        sums = jnp.sum(qw, axis=tuple(range(1, qw.ndim)), dtype=jnp.int32)
        total = total - jnp.reshape(zero_x, ()) * sums.reshape(channels)
    scale = _scalar(x.scale) * _flat(w.scale)
    return scaled(total, scale if scale.ndim == 0 else scale.reshape(channels), x.float_type)


def exact_convolution(qx: Any, qw: Any, window: Window, groups: int) -> Any:
    """Return the int32 convolution of int8 tensors.

    XLA's CPU backend has no fast int8 convolution (measured 14 times slower than float32). There the products are taken
    in float32, over slices of input channels small enough that every sum stays a whole number below 2^24, so the result
    is the same integer; accelerators get the int8 convolution itself.
    """
    import jax.numpy as jnp
    from jax import lax

    def by_integers(qx: Any, qw: Any) -> Any:
        return lax.conv_general_dilated(qx, qw, preferred_element_type=jnp.int32, **settings_of(window, groups))

    def by_floats(qx: Any, qw: Any) -> Any:
        taps = int(np.prod(qw.shape[2:]))
        limit = max(1, _FLOAT32_EXACT // (_LARGEST_PRODUCT * taps))
        channels = qw.shape[1]
        if taps * _LARGEST_PRODUCT > _FLOAT32_EXACT or (groups > 1 and channels > limit):
            return by_integers(qx, qw)
        total = None
        for start in range(0, channels, limit):
            stop = channels if groups > 1 else min(start + limit, channels)
            part_x = qx if groups > 1 else qx[:, start:stop]
            part_w = qw[:, start:stop]
            part = float_convolution(part_x.astype(jnp.float32), part_w.astype(jnp.float32), window, groups)
            part = part.astype(jnp.int32)
            total = part if total is None else total + part
        return total

    return lax.platform_dependent(qx, qw, cpu=by_floats, default=by_integers)
