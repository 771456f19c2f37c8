"""Shapes: asking for them, reshaping, joining, cutting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import (
    Dequantized,
    dims_from,
    host_dims,
    ints_from,
    is_scalar,
    object_array,
    on_device,
)

_HUGE = 1 << 30
"""A bound of a slice beyond it means the end of the axis."""


@lowers("Shape", since=1)
def shape_of(call: Call, x: Any) -> Any:
    """Return the shape, or the part of it from `start` to `end`: known at trace time, perhaps symbolic."""
    rank = len(x.shape)
    start, end = call.integer("start", 0), call.integer("end", rank)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    return host_dims(x.shape[start:end])


@lowers("Size", since=1)
def size_of(call: Call, x: Any) -> Any:
    count: Any = 1
    for size in x.shape:
        count = count * size
    return object_array([count], ())


def target_shape(given: tuple[Any, ...], shape: tuple[Any, ...], *, allow_zero: bool) -> tuple[Any, ...]:
    """Return the shape that Reshape asks for, 0 meaning "as before" unless `allow_zero`; -1 is left in."""
    if allow_zero:
        return given
    return tuple(shape[position] if isinstance(dim, int) and dim == 0 else dim for position, dim in enumerate(given))


@lowers("Reshape", since=5, host=(1,), takes_quantized=True)
def reshape(call: Call, x: Any, shape: Any) -> Any:
    """Return x in another shape; a tensor that is not dequantized yet stays so if one scale serves all of it."""
    import jax.numpy as jnp

    given = dims_from(shape, "the new shape")
    wanted = target_shape(given, tuple(x.shape), allow_zero=bool(call.integer("allowzero")))
    if isinstance(x, Dequantized) and is_scalar(x.scale) and is_scalar(x.zero_point):
        return replace(x, quantized=jnp.reshape(x.quantized, wanted), axis=0)
    return jnp.reshape(on_device(x), wanted)


@lowers("Flatten", since=1)
def flatten(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    axis = call.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    rows: Any = 1
    columns: Any = 1
    for size in x.shape[:axis]:
        rows = rows * size
    for size in x.shape[axis:]:
        columns = columns * size
    return jnp.reshape(x, (rows, columns))


@lowers("Transpose", since=1, takes_quantized=True)
def transpose(call: Call, x: Any) -> Any:
    """Return the axes in another order; a tensor that is not dequantized yet stays so, its scale's axis moved too."""
    import jax.numpy as jnp

    order = call.integers("perm") or list(reversed(range(len(x.shape))))
    if isinstance(x, Dequantized):
        return replace(x, quantized=jnp.transpose(x.quantized, order), axis=order.index(x.axis))
    return jnp.transpose(x, order)


@lowers("Squeeze", since=1)
def squeeze_by_attribute(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    axes = call.integers("axes")
    return jnp.squeeze(x, None if axes is None else tuple(axes))


@lowers("Squeeze", since=13, host=(1,))
def squeeze(call: Call, x: Any, axes: Any = None) -> Any:
    import jax.numpy as jnp

    return jnp.squeeze(x, None if axes is None else tuple(ints_from(axes, "the axes")))


@lowers("Unsqueeze", since=1)
def unsqueeze_by_attribute(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.expand_dims(x, tuple(call.integers("axes") or ()))


@lowers("Unsqueeze", since=13, host=(1,))
def unsqueeze(call: Call, x: Any, axes: Any) -> Any:
    import jax.numpy as jnp

    return jnp.expand_dims(x, tuple(ints_from(axes, "the axes")))


@lowers("Concat", since=4)
def concat(call: Call, *values: Any) -> Any:
    import jax.numpy as jnp

    return jnp.concatenate(values, axis=call.integer("axis"))


@lowers("Expand", since=8, host=(1,))
def expand(call: Call, x: Any, shape: Any) -> Any:
    """Return x broadcast with a shape; a 1 in either gives way to the other."""
    import jax.numpy as jnp

    wanted = dims_from(shape, "the new shape")
    rank = max(x.ndim, len(wanted))
    have = (1,) * (rank - x.ndim) + tuple(x.shape)
    want = (1,) * (rank - len(wanted)) + wanted
    merged = tuple(new if isinstance(old, int) and old == 1 else old for old, new in zip(have, want, strict=True))
    return jnp.broadcast_to(x, merged)


@lowers("Tile", since=6, host=(1,))
def tile(call: Call, x: Any, repeats: Any) -> Any:
    import jax.numpy as jnp

    return jnp.tile(x, dims_from(repeats, "the repeats"))


@lowers("Slice", since=1)
def slice_by_attributes(call: Call, x: Any) -> Any:
    starts = np.array(call.integers("starts"), np.int64)
    axes = call.integers("axes")
    ends = np.array(call.integers("ends"), np.int64)
    return _sliced(call, x, starts, ends, None if axes is None else np.array(axes), None)


@lowers("Slice", since=10, host=(1, 2, 3, 4))
def slice_(call: Call, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    return _sliced(call, x, starts, ends, axes, steps)


def _sliced(call: Call, x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    first = dims_from(starts, "the start of a slice")
    last = dims_from(ends, "the end of a slice")
    along = list(range(len(first))) if axes is None else ints_from(axes, "the axes of a slice")
    by = [1] * len(first) if steps is None else ints_from(steps, "the step of a slice")
    index: list[Any] = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        size = x.shape[axis]
        if isinstance(size, int) and not isinstance(end, int):
            call.suggest_bound(f"{end} <= {size}")
        if step > 0:
            for bound in (start, end):
                _suggest_inside(call, bound, size)
        index[axis] = slice_of(start, end, step, size)
    return x[tuple(index)]


def _suggest_inside(call: Call, bound: Any, size: Any) -> None:
    """Suggest that a bound counted from an axis's end, or computed from sizes, does not fall before its beginning."""
    if isinstance(bound, int) and (isinstance(size, int) or bound >= 0 or bound <= -_HUGE):
        return
    place = size + bound if _is_below_zero(bound) else bound
    if _is_below_zero(place) is None:
        call.suggest_bound(f"{place} >= 0")


def _is_below_zero(dim: Any) -> bool | None:
    """Return None where that depends on the sizes."""
    from jax.errors import InconclusiveDimensionOperation

    try:
        return bool(dim < 0)
    except InconclusiveDimensionOperation:
        return None


def slice_of(start: Any, end: Any, step: int, size: Any) -> slice:
    """Return one axis's slice as Python spells it: ends beyond the axis, such as INT_MAX, become None."""
    begin = None if isinstance(start, int) and (start <= -_HUGE if step > 0 else start >= _HUGE) else start
    stop = None if isinstance(end, int) and (end >= _HUGE if step > 0 else end <= -_HUGE) else end
    if isinstance(size, int):
        if isinstance(begin, int) and step < 0 and begin < -size:
            begin = -size  # ONNX reads the first row, where Python reads none
        if isinstance(stop, int) and step < 0 and stop < -size:
            stop = None
        return slice(begin, stop, step)
    if isinstance(begin, int) and begin < 0 and step > 0:
        begin = size + begin
    if isinstance(stop, int) and stop < 0 and step > 0:
        stop = size + stop
    return slice(begin, stop, step)


@lowers("Split", since=2)
def split_by_attribute(call: Call, x: Any) -> Any:
    sizes = call.integers("split")
    return _split(call, x, sizes)


@lowers("Split", since=13, host=(1,))
def split(call: Call, x: Any, sizes: Any = None) -> Any:
    return _split(call, x, None if sizes is None else list(dims_from(sizes, "the sizes of a split")))


def _split(call: Call, x: Any, sizes: list[Any] | None) -> Any:
    from jax import lax

    axis = call.integer("axis") % x.ndim
    if sizes is None:
        count = call.integer("num_outputs", call.output_count)
        size = x.shape[axis]
        each = -(-size // count)
        sizes = [each] * (count - 1)
        sizes.append(size - sum(sizes))
    parts, start = [], 0
    for size in sizes:
        parts.append(lax.slice_in_dim(x, start, start + size, axis=axis))
        start = start + size
    return tuple(parts)
