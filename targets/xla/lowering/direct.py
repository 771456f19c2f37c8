"""Float convolutions, in the form that each platform runs fast.

XLA's CPU backend is slow at two forms that models use much (measured on one core): depthwise convolutions, for which a
sum over the kernel's taps takes a sixth to a twenty-fifth of the time, and images one pixel wide, which as sequences
take an eighth.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from targets.xla.lowering.windows import Window

_MOST_TAPS = 81


def numbers(rank: int) -> Any:
    """Return the dimension numbers of [N, C, ...] by [O, I, ...] for a tensor of `rank`."""
    from jax import lax

    axes = tuple(range(rank))
    return lax.ConvDimensionNumbers(axes, axes, axes)


def settings_of(window: Window, groups: int) -> dict[str, Any]:
    """Return what lax.conv_general_dilated takes besides operands."""
    return {
        "window_strides": window.strides,
        "rhs_dilation": window.dilations,
        "padding": window.pads,
        "dimension_numbers": numbers(len(window.kernel) + 2),
        "feature_group_count": groups,
    }


def float_convolution(x: Any, w: Any, window: Window, groups: int) -> Any:
    """Return the convolution of x [N, C, ...] with w [O, C/g, ...]."""
    import jax.numpy as jnp
    from jax import lax

    x, w = jnp.asarray(x), jnp.asarray(w)
    kept = _kept_axes(x, window)
    if len(kept) < len(window.kernel):
        narrow = tuple(axis + 2 for axis in range(len(window.kernel)) if axis not in kept)
        result = float_convolution(jnp.squeeze(x, narrow), jnp.squeeze(w, narrow), _only(window, kept), groups)
        return jnp.expand_dims(result, narrow)

    def general(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, **settings_of(window, groups))

    def by_taps(x: Any, w: Any) -> Any:
        return _depthwise(x, w, window)

    if not _is_depthwise(x, w, window, groups):
        return general(x, w)
    return lax.platform_dependent(x, w, cpu=by_taps, default=general)


def _kept_axes(x: Any, window: Window) -> list[int]:
    """Return the spatial axes that are more than one pixel wide; one at least."""
    kept = [
        axis
        for axis, (size, reach, pads) in enumerate(zip(x.shape[2:], window.kernel, window.pads, strict=True))
        if not (_is_one(size) and reach == 1 and all(_is_zero(pad) for pad in pads))
    ]
    return kept or [0]


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _is_zero(size: Any) -> bool:
    return isinstance(size, int) and size == 0


def _only(window: Window, axes: list[int]) -> Window:
    return Window(
        kernel=[window.kernel[axis] for axis in axes],
        strides=[window.strides[axis] for axis in axes],
        dilations=[window.dilations[axis] for axis in axes],
        pads=[window.pads[axis] for axis in axes],
    )


def _is_depthwise(x: Any, w: Any, window: Window, groups: int) -> bool:
    known = all(isinstance(size, int) for size in (*x.shape[2:], *(pad for pads in window.pads for pad in pads)))
    inside = known and all(pad >= 0 for pads in window.pads for pad in pads)
    return inside and groups > 1 and x.shape[1] == groups and w.shape[1] == 1 and math.prod(window.kernel) <= _MOST_TAPS


def _depthwise(x: Any, w: Any, window: Window) -> Any:
    """Return the sum over taps of the shifted input times the tap's weight; x [N, C, ...], w [C * m, 1, ...].

    The sum is taken in float32 at least.
    """
    import jax.numpy as jnp

    given = x.dtype
    if given.itemsize < 4:
        x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    x = jnp.pad(x, [(0, 0), (0, 0), *window.pads])
    if w.shape[0] != x.shape[1]:
        x = jnp.repeat(x, w.shape[0] // x.shape[1], axis=1)
    counts = [
        (size - reach) // stride + 1
        for size, reach, stride in zip(x.shape[2:], window.reach, window.strides, strict=True)
    ]
    total: Any = None
    for tap in itertools.product(*map(range, window.kernel)):
        cut = tuple(
            slice(at * step, at * step + (count - 1) * stride + 1, stride)
            for at, step, count, stride in zip(tap, window.dilations, counts, window.strides, strict=True)
        )
        part = x[(slice(None), slice(None), *cut)] * w[(slice(None), 0, *tap)].reshape([-1] + [1] * len(cut))
        total = part if total is None else total + part
    return total.astype(given)
