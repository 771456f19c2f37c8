"""Pools: sliding maxima and means, and the global ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unsupported, widened
from targets.xla.lowering.windows import Window, ceil_extra, window_of


def _pool(x: Any, initial: Any, combine: Callable[..., Any], window: Window, extra: list[Any]) -> Any:
    """Return x [N, C, ...] reduced over the window, padded with `initial` as the window and `extra` say."""
    from jax import lax

    pads = [(low, high + more) for (low, high), more in zip(window.pads, extra, strict=True)]
    if any(not isinstance(pad, int) or pad < 0 for pair in pads for pad in pair):
        x = lax.pad(x, initial, [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in pads)])
        pads = [(0, 0)] * len(pads)
    return lax.reduce_window(
        x,
        initial,
        combine,
        window_dimensions=(1, 1, *window.kernel),
        window_strides=(1, 1, *window.strides),
        window_dilation=(1, 1, *window.dilations),
        padding=((0, 0), (0, 0), *pads),
    )


def _window(call: Call, x: Any) -> tuple[Window, list[Any]]:
    window = window_of(call, x.shape[2:], call.integers("kernel_shape") or [])
    return window, ceil_extra(window, x.shape[2:]) if call.integer("ceil_mode") else [0] * (x.ndim - 2)


@lowers("MaxPool", since=1)
def max_pool(call: Call, x: Any) -> Any:
    """Return the maxima, and the flat index of each when the second output is wanted."""
    import jax.numpy as jnp
    from jax import lax

    x = jnp.asarray(x)
    window, extra = _window(call, x)
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    initial = jnp.asarray(lowest, x.dtype)
    pooled = _pool(x, initial, lax.max, window, extra)
    return (pooled, _indices(call, x, initial, window, extra)) if call.wants(1) else pooled


def _indices(call: Call, x: Any, initial: Any, window: Window, extra: list[Any]) -> Any:
    import jax.numpy as jnp
    from jax import lax

    if not all(isinstance(size, int) for size in x.shape):
        raise Unsupported("the indices of MaxPool over symbolic dimensions")
    order = jnp.arange(x.size, dtype=jnp.int64).reshape(x.shape)
    if call.integer("storage_order"):
        rank = x.ndim - 2
        per_plane = 1
        for size in x.shape[2:]:
            per_plane *= size
        planes = jnp.arange(x.shape[0] * x.shape[1], dtype=jnp.int64).reshape(x.shape[:2] + (1,) * rank) * per_plane
        inner = jnp.arange(per_plane, dtype=jnp.int64).reshape(x.shape[:1:-1])
        order = planes + jnp.transpose(inner)

    def better(left: tuple[Any, Any], right: tuple[Any, Any]) -> tuple[Any, Any]:
        take = (left[0] > right[0]) | ((left[0] == right[0]) & (left[1] <= right[1]))
        return jnp.where(take, left[0], right[0]), jnp.where(take, left[1], right[1])

    pads = [(low, high + more) for (low, high), more in zip(window.pads, extra, strict=True)]
    _, found = lax.reduce_window(
        (x, order),
        (initial, jnp.asarray(x.size, jnp.int64)),
        better,
        window_dimensions=(1, 1, *window.kernel),
        window_strides=(1, 1, *window.strides),
        window_dilation=(1, 1, *window.dilations),
        padding=((0, 0), (0, 0), *pads),
    )
    return found


@lowers("AveragePool", since=1)
def average_pool(call: Call, x: Any) -> Any:
    """Return the means; pads count in the divisor with count_include_pad=1, what ceil_mode adds never does."""
    import jax.numpy as jnp
    from jax import lax

    given = jnp.asarray(x)
    x = given.astype(jnp.float32) if given.dtype.itemsize < 4 else given  # the sum needs the range and the digits
    window, extra = _window(call, x)
    zero = jnp.zeros((), x.dtype)
    total = _pool(x, zero, lax.add, window, extra)
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if call.integer("count_include_pad"):
        grown = [(low, high) for low, high in window.pads]
        ones = lax.pad(ones, jnp.ones((), x.dtype), [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in grown)])
        unpadded = Window(window.kernel, window.strides, window.dilations, [(0, 0)] * len(window.pads))
        return (total / _pool(ones, zero, lax.add, unpadded, extra)).astype(given.dtype)
    return (total / _pool(ones, zero, lax.add, window, extra)).astype(given.dtype)


@lowers("LpPool", since=1)
def lp_pool(call: Call, x: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    wide = widened(x)
    window, extra = _window(call, wide)
    p = call.integer("p", 2)
    total = _pool(jnp.abs(wide) ** p, jnp.zeros((), wide.dtype), lax.add, window, extra)
    return (total ** (1.0 / p)).astype(x.dtype)


def _spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@lowers("GlobalAveragePool", since=1)
def global_average_pool(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.mean(x, axis=_spatial(x), keepdims=True)


@lowers("GlobalMaxPool", since=1)
def global_max_pool(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.max(x, axis=_spatial(x), keepdims=True)


@lowers("GlobalLpPool", since=2)
def global_lp_pool(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    p = call.integer("p", 2)
    return (jnp.sum(jnp.abs(widened(x)) ** p, axis=_spatial(x), keepdims=True) ** (1.0 / p)).astype(x.dtype)


@lowers("MaxUnpool", since=9, host=(2,))
def max_unpool(call: Call, x: Any, indices: Any, output_shape: Any = None) -> Any:
    """Return zeros with each maximum put back at its flat index in the tensor that the pool read."""
    import jax.numpy as jnp

    from targets.xla.lowering.values import dims_from

    kernel = call.integers("kernel_shape") or []
    rank = len(kernel)
    strides, pads = call.integers("strides") or [1] * rank, call.integers("pads") or [0] * (2 * rank)
    inferred = [
        (size - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[axis + rank]
        for axis, size in enumerate(x.shape[2:])
    ]
    natural = (*x.shape[:2], *inferred)
    flat = jnp.zeros(natural, x.dtype).reshape(-1).at[jnp.reshape(indices, -1)].set(jnp.reshape(x, -1))
    if output_shape is None:
        return flat.reshape(natural)
    wanted = dims_from(output_shape, "the output shape")
    if not all(isinstance(size, int) for size in (*natural, *wanted)):
        raise Unsupported("MaxUnpool to a symbolic shape")
    # The indices count positions in the pool's input, whose rows are as long as those of the inferred shape.
    spread = flat.reshape(natural)
    return jnp.pad(spread, [(0, big - small) for big, small in zip(wanted, natural, strict=True)])
