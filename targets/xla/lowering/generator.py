"""Tensors made from nothing: constants, ranges, identities, windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unknown, Unsupported, dims_from, ints_from


@lowers("Constant", since=1)
def constant(call: Call) -> Any:
    for name, dtype in (("value_int", np.int64), ("value_float", np.float32)):
        if call.has(name):
            return np.asarray(call.integer(name) if dtype is np.int64 else call.number(name), dtype)
    for name, dtype in (("value_ints", np.int64), ("value_floats", np.float32)):
        if call.has(name):
            return np.asarray(call.integers(name) if dtype is np.int64 else call.numbers(name), dtype)
    value = call.tensor("value")
    if value is None or value.dtype.kind in "OSU":
        raise Unsupported("a constant that is a string or sparse")
    return value


@lowers("ConstantOfShape", since=9, host=(0,))
def constant_of_shape(call: Call, shape: Any) -> Any:
    import jax.numpy as jnp

    value = call.tensor("value")
    value = np.zeros(1, np.float32) if value is None else value
    return jnp.full(dims_from(shape, "the shape"), value.reshape(()), dtype=value.dtype)


@lowers("Range", since=11, host=(0, 1, 2))
def range_(call: Call, start: Any, limit: Any, delta: Any) -> Any:
    """Return start, start + delta, ... below limit. Only a limit of an ascending range by 1 may be symbolic."""
    import jax.numpy as jnp

    if any(value.dtype == object for value in (start, limit, delta)):
        begin, step = dims_from(start, "the start")[0], ints_from(delta, "the step")[0]
        end = dims_from(limit, "the limit")[0]
        if step != 1:
            raise Unknown("a range over a symbolic dimension with a step other than 1")
        return jnp.arange(end - begin, dtype=jnp.int64) + jnp.asarray(begin, jnp.int64)
    first, last, by = (value.reshape(()) for value in (start, limit, delta))
    count = max(math.ceil((float(last) - float(first)) / float(by)), 0)
    return jnp.arange(count, dtype=first.dtype) * by.astype(first.dtype) + first


@lowers("EyeLike", since=9)
def eye_like(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    dtype = call.dtype(call.integer("dtype")) if call.has("dtype") else x.dtype
    return jnp.eye(x.shape[0], x.shape[1], k=call.integer("k"), dtype=dtype)


def _window(call: Call, size: Any, weights: tuple[float, ...]) -> Any:
    """Return the cosine series w0 - w1 cos(2 pi n / N) + w2 cos(4 pi n / N); N = size, or size - 1 if symmetric."""
    import jax.numpy as jnp

    count = ints_from(size, "the size")[0]
    length = count if call.integer("periodic", 1) else count - 1
    angle = 2 * np.pi * np.arange(count, dtype=np.float64) / max(length, 1)
    total = sum((-1) ** order * weight * np.cos(order * angle) for order, weight in enumerate(weights))
    return jnp.asarray(total, call.dtype(call.integer("output_datatype", 1)))


@lowers("HannWindow", since=17, host=(0,))
def hann_window(call: Call, size: Any) -> Any:
    return _window(call, size, (0.5, 0.5))


@lowers("HammingWindow", since=17, host=(0,))
def hamming_window(call: Call, size: Any) -> Any:
    return _window(call, size, (25 / 46, 21 / 46))


@lowers("BlackmanWindow", since=17, host=(0,))
def blackman_window(call: Call, size: Any) -> Any:
    return _window(call, size, (0.42, 0.5, 0.08))


@lowers("MelWeightMatrix", since=17, host=(0, 1, 2, 3, 4))
def mel_weight_matrix(call: Call, bin_count: Any, transform_length: Any, sample_rate: Any, low: Any, high: Any) -> Any:
    """Return the triangular filters [transform_length // 2 + 1, bins] that are evenly spaced in mel."""
    import jax.numpy as jnp

    bins, length = int(bin_count), int(transform_length)
    rate = int(sample_rate)
    spectrum = length // 2 + 1
    low_mel, high_mel = (2595 * np.log10(1 + float(edge) / 700) for edge in (low, high))
    step = (high_mel - low_mel) / (bins + 2)
    edges_mel = np.arange(bins + 2) * step + low_mel
    edges = ((length + 1) * (700 * (10 ** (edges_mel / 2595) - 1)) // rate).astype(np.int64)
    matrix = np.zeros((spectrum, bins))
    for column in range(bins):
        lower, centre, upper = edges[column : column + 3]
        if centre == lower:
            matrix[centre, column] = 1
        else:
            rising = np.arange(lower, centre + 1)
            matrix[rising, column] = (rising - lower) / (centre - lower)
        if upper > centre:
            falling = np.arange(centre, upper)
            matrix[falling, column] = (upper - falling) / (upper - centre)
    return jnp.asarray(matrix, call.dtype(call.integer("output_datatype", 1)))
