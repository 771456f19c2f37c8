"""Resampling of images: a few weighted taps along each axis, their places and weights known at trace time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unknown, Unsupported, ints_from, is_host

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Rule:
    """How Resize reads its input, from its attributes."""

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float


@lowers("Upsample", since=7)
def upsample_by_attributes(call: Call, x: Any) -> Any:
    return upsample(call, x, np.asarray(call.numbers("scales"), np.float32))


@lowers("Upsample", since=9, host=(1,))
def upsample(call: Call, x: Any, scales: Any) -> Any:
    rule = _Rule(call.text("mode", "nearest"), "asymmetric", "floor", -0.75, False, False, 0.0)
    return _resized(x, rule, [float(scale) for scale in scales], None, None)


@lowers("Resize", since=10, host=(1,))
def resize_by_scales(call: Call, x: Any, scales: Any) -> Any:
    return upsample(call, x, scales)


@lowers("Resize", since=11, host=(1, 2, 3))
def resize(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    rule = _Rule(
        mode=call.text("mode", "nearest"),
        coordinates=call.text("coordinate_transformation_mode", "half_pixel"),
        nearest=call.text("nearest_mode", "round_prefer_floor"),
        cubic_a=call.number("cubic_coeff_a", -0.75),
        antialias=bool(call.integer("antialias")),
        exclude_outside=bool(call.integer("exclude_outside")),
        extrapolation=call.number("extrapolation_value"),
    )
    axes = [axis % x.ndim for axis in call.integers("axes") or range(x.ndim)]
    region = None
    if roi is not None and rule.coordinates == "tf_crop_and_resize":
        region = {axis: (float(roi[at]), float(roi[at + len(axes)])) for at, axis in enumerate(axes)}
    if scales is not None and np.size(scales):
        factors = [1.0] * x.ndim
        for axis, scale in zip(axes, scales, strict=True):
            factors[axis] = float(scale)
        return _resized(x, rule, factors, None, region)
    if sizes is None:
        raise Unsupported("Resize without scales and sizes")
    return _to_sizes(call, x, rule, axes, sizes, region)


def _to_sizes(call: Call, x: Any, rule: _Rule, axes: list[int], sizes: Any, region: Any) -> Any:
    if not is_host(sizes):
        raise Unknown("the new size depends on the data")
    wanted = dict(zip(axes, np.asarray(sizes).reshape(-1).tolist(), strict=True))
    factors, lengths = [1.0] * x.ndim, list(x.shape)
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    for axis, size in wanted.items():
        if _is_same(size, x.shape[axis]):
            continue
        lengths[axis] = ints_from(np.asarray([size], dtype=object), "the new size")[0]
        if not isinstance(x.shape[axis], int):
            raise Unknown("resizing a symbolic dimension")
        factors[axis] = lengths[axis] / x.shape[axis]
    if policy != "stretch":
        choose = min if policy == "not_larger" else max
        scale = choose(factors[axis] for axis in axes)
        for axis in axes:
            factors[axis] = scale
            lengths[axis] = math.floor(scale * x.shape[axis] + 0.5)
    return _resized(x, rule, factors, lengths, region)


def _is_same(a: Any, b: Any) -> bool:
    difference = a - b
    return isinstance(difference, int) and difference == 0


def _resized(x: Any, rule: _Rule, factors: list[float], lengths: list[Any] | None, region: Any) -> Any:
    import jax.numpy as jnp

    x = jnp.asarray(x)
    result = x.astype(jnp.float32) if rule.mode != "nearest" and x.dtype.itemsize < 4 else x
    outside: Any = None
    for axis, scale in enumerate(factors):
        size = x.shape[axis]
        length = lengths[axis] if lengths is not None else None
        if scale == 1.0 and (region is None or axis not in region or region[axis] == (0.0, 1.0)):
            continue
        if not isinstance(size, int):
            raise Unknown("resizing a symbolic dimension")
        length = math.floor(np.float32(size) * np.float32(scale)) if length is None else length
        positions = _positions(rule, size, length, scale, None if region is None else region.get(axis))
        result = _along(result, axis, rule, positions, scale)
        if rule.coordinates == "tf_crop_and_resize":
            beyond = ((positions < 0) | (positions > size - 1)).reshape([-1 if d == axis else 1 for d in range(x.ndim)])
            outside = beyond if outside is None else outside | beyond
    if jnp.issubdtype(x.dtype, jnp.integer) and rule.mode != "nearest":
        result = jnp.rint(result)
    if outside is not None:
        result = jnp.where(outside, rule.extrapolation, result)
    return result.astype(x.dtype)


def _positions(rule: _Rule, size: int, length: int, scale: float, region: Any) -> _Floats:
    """Return where in the input each of `length` outputs lies; the formulas are the operator's own."""
    x = np.arange(length, dtype=np.float64)
    whole = scale * size  # the length before it was cut to an integer
    half_pixel = (x + 0.5) / scale - 0.5
    if rule.coordinates == "half_pixel":
        return half_pixel
    if rule.coordinates == "half_pixel_symmetric":
        return half_pixel + size / 2 * (1 - length / whole)
    if rule.coordinates == "pytorch_half_pixel":
        return half_pixel if whole > 1 else np.zeros(length)
    if rule.coordinates == "align_corners":
        return x * (size - 1) / (whole - 1) if whole != 1 else np.zeros(length)
    if rule.coordinates == "asymmetric":
        return x / scale
    if rule.coordinates == "tf_crop_and_resize":
        start, end = (0.0, 1.0) if region is None else region
        if length == 1:
            return np.full(1, 0.5 * (start + end) * (size - 1))
        return start * (size - 1) + x * (end - start) * (size - 1) / (length - 1)
    raise Unsupported(f"the coordinates {rule.coordinates}")


_NEAREST: dict[str, Callable[[_Floats], _Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _along(x: Any, axis: int, rule: _Rule, positions: _Floats, scale: float) -> Any:
    """Return x read at `positions` along one axis."""
    import jax.numpy as jnp

    size = x.shape[axis]
    if rule.mode == "nearest":
        taken = np.clip(_NEAREST[rule.nearest](positions), 0, size - 1).astype(np.int32)
        return jnp.take(x, taken, axis=axis)
    squeeze = min(scale, 1.0) if rule.antialias else 1.0
    reach = 1.0 if rule.mode == "linear" else 2.0
    kernel = _triangle if rule.mode == "linear" else lambda t: _cubic(t, rule.cubic_a)
    support = math.ceil(reach / squeeze)
    places = np.floor(positions)[:, None] + np.arange(1 - support, support + 1)[None, :]  # [length, taps]
    weights = kernel((places - positions[:, None]) * squeeze)
    if rule.exclude_outside:
        weights = np.where((places < 0) | (places > size - 1), 0, weights)
    if rule.exclude_outside or rule.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    index = np.clip(places, 0, size - 1).astype(np.int32)
    shape = [-1 if dim == axis else 1 for dim in range(x.ndim)]
    total: Any = None
    for tap in range(index.shape[1]):
        if not weights[:, tap].any():
            continue
        part = jnp.take(x, index[:, tap], axis=axis) * weights[:, tap].astype(np.float32).reshape(shape)
        total = part if total is None else total + part
    return total


def _triangle(t: _Floats) -> _Floats:
    weights: _Floats = np.clip(1 - np.abs(t), 0, 1)
    return weights


def _cubic(t: _Floats, a: float) -> _Floats:
    """Return the cubic convolution kernel (Keys 1981) with parameter a."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    weights: _Floats = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return weights
