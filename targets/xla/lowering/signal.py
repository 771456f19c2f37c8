"""Fourier transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import ints_from


@lowers("DFT", since=17, host=(1,))
def fourier_by_attribute(call: Call, x: Any, length: Any = None) -> Any:
    return _fourier(call, x, length, call.integer("axis", 1))


@lowers("DFT", since=20, host=(1, 2))
def fourier(call: Call, x: Any, length: Any = None, axis: Any = None) -> Any:
    return _fourier(call, x, length, -2 if axis is None else ints_from(axis, "the axis")[0])


def _fourier(call: Call, x: Any, length: Any, axis: int) -> Any:
    """Return the transform of x [..., 1 or 2]; the last axis holds the real and imaginary parts."""
    import jax.numpy as jnp

    axis %= x.ndim
    count = None if length is None else ints_from(length, "the length")[0]
    if call.integer("inverse"):
        result = jnp.fft.ifft(_complex(x), n=count, axis=axis)
        if call.integer("onesided"):
            return jnp.expand_dims(jnp.fft.irfft(_complex(x), n=count, axis=axis), -1).astype(x.dtype)
    elif call.integer("onesided"):
        result = jnp.fft.rfft(x[..., 0], n=count, axis=axis)
    else:
        result = jnp.fft.fft(_complex(x), n=count, axis=axis)
    return _pair(result, x.dtype)


def _complex(x: Any) -> Any:
    import jax.lax

    return jax.lax.complex(x[..., 0], x[..., 1]) if x.shape[-1] == 2 else x[..., 0]


def _pair(x: Any, dtype: Any) -> Any:
    import jax.numpy as jnp

    return jnp.stack((jnp.real(x), jnp.imag(x)), axis=-1).astype(dtype)


@lowers("STFT", since=17, host=(1, 3))
def short_time_fourier(call: Call, x: Any, step: Any, window: Any = None, length: Any = None) -> Any:
    """Return the transforms [B, frames, bins, 2] of overlapping frames of x [B, S, 1 or 2]."""
    import jax.numpy as jnp

    hop = ints_from(step, "the frame step")[0]
    size = window.shape[0] if length is None else ints_from(length, "the frame length")[0]
    frames = 1 + (x.shape[1] - size) // hop
    index = np.arange(frames)[:, None] * hop + np.arange(size)[None, :]
    cut = jnp.take(x, index, axis=1)  # [B, frames, size, 1 or 2]
    if window is not None:
        cut = cut * jnp.reshape(window, (1, 1, -1, 1))
    if call.integer("onesided", 1):
        return _pair(jnp.fft.rfft(cut[..., 0], axis=2), x.dtype)
    return _pair(jnp.fft.fft(_complex(cut), axis=2), x.dtype)
