"""Layout: reshaping, joining, cutting, padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import (
    Dequantized,
    Unsupported,
    dims_from,
    host_dims,
    ints_from,
    is_scalar,
    object_array,
    on_device,
)


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
        index[axis] = slice_of(start, end, step, size)
    return x[tuple(index)]


def slice_of(start: Any, end: Any, step: int, size: Any) -> slice:
    """Return one axis's slice as Python spells it: ends beyond the axis, such as INT_MAX, become None."""
    huge = 1 << 30
    begin = None if isinstance(start, int) and (start <= -huge if step > 0 else start >= huge) else start
    stop = None if isinstance(end, int) and (end >= huge if step > 0 else end <= -huge) else end
    if isinstance(size, int):
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
        if not isinstance(size, int):
            raise Unsupported("an equal split of a symbolic dimension")
        each = -(-size // count)
        sizes = [each] * (count - 1)
        sizes.append(size - sum(sizes))
    parts, start = [], 0
    for size in sizes:
        parts.append(lax.slice_in_dim(x, start, start + size, axis=axis))
        start = start + size
    return tuple(parts)


@lowers("Pad", since=2)
def pad_by_attributes(call: Call, x: Any) -> Any:
    return _padded(call, x, call.integers("pads") or call.integers("paddings") or [], call.number("value"), None)


@lowers("Pad", since=11, host=(1, 3))
def pad(call: Call, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    along = None if axes is None else ints_from(axes, "the axes to pad")
    return _padded(call, x, list(dims_from(pads, "the pads")), 0 if value is None else value, along)


def _padded(call: Call, x: Any, flat: list[Any], value: Any, axes: list[int] | None) -> Any:
    import jax.numpy as jnp
    from jax import lax

    x = jnp.asarray(x)
    along = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    pads: list[tuple[Any, Any]] = [(0, 0)] * x.ndim
    for position, axis in enumerate(along):
        pads[axis] = (flat[position], flat[position + len(along)])
    mode = call.text("mode", "constant")
    if mode == "constant":
        return lax.pad(x, jnp.asarray(value, x.dtype).reshape(()), [(low, high, 0) for low, high in pads])
    cut = tuple(
        slice(-low if low < 0 else None, high if high < 0 else None) if isinstance(low, int) else slice(None)
        for low, high in pads
    )
    grown = [(max(low, 0), max(high, 0)) for low, high in pads]
    return jnp.pad(x[cut], grown, mode={"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode])


@lowers("DepthToSpace", since=1)
def depth_to_space(call: Call, x: Any) -> Any:
    """Return [N, C, H, W] with blocks of channels moved to space: [N, C/b^2, H*b, W*b]."""
    import jax.numpy as jnp

    block = call.integer("blocksize")
    n, c, h, w = x.shape
    if call.text("mode", "DCR") == "DCR":
        split_up = jnp.reshape(x, (n, block, block, c // block**2, h, w)).transpose(0, 3, 4, 1, 5, 2)
    else:
        split_up = jnp.reshape(x, (n, c // block**2, block, block, h, w)).transpose(0, 1, 4, 2, 5, 3)
    return split_up.reshape((n, c // block**2, h * block, w * block))


@lowers("SpaceToDepth", since=1)
def space_to_depth(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    block = call.integer("blocksize")
    n, c, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if call.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    split_up = jnp.reshape(x, (n, c, h // block, block, w // block, block)).transpose(order)
    return split_up.reshape((n, c * block**2, h // block, w // block))


@lowers("CenterCropPad", since=18, host=(1,))
def center_crop_pad(call: Call, x: Any, shape: Any) -> Any:
    import jax.numpy as jnp

    wanted = ints_from(shape, "the new shape")
    axes = call.integers("axes") or list(range(x.ndim))
    pads, cuts = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
    for axis, size in zip((axis % x.ndim for axis in axes), wanted, strict=True):
        missing = size - x.shape[axis]
        if missing >= 0:
            pads[axis] = (missing // 2, missing - missing // 2)
        else:
            start = -missing // 2
            cuts[axis] = slice(start, start + size)
    return jnp.pad(x[tuple(cuts)], pads)


@lowers("Col2Im", since=18, host=(1, 2))
def columns_to_image(call: Call, x: Any, image_shape: Any, block_shape: Any) -> Any:
    """Return [N, C, image] in which every column [N, C * block, L] was added at its place."""
    import jax.numpy as jnp

    image, block = ints_from(image_shape, "the image shape"), ints_from(block_shape, "the block shape")
    rank = len(image)
    strides, dilations = call.integers("strides") or [1] * rank, call.integers("dilations") or [1] * rank
    flat = call.integers("pads") or [0] * (2 * rank)
    padded = [image[axis] + flat[axis] + flat[axis + rank] for axis in range(rank)]
    counts = [(padded[axis] - dilations[axis] * (block[axis] - 1) - 1) // strides[axis] + 1 for axis in range(rank)]
    channels = x.shape[1] // int(np.prod(block))
    columns = jnp.reshape(x, (x.shape[0], channels, *block, *counts))
    result = jnp.zeros((x.shape[0], channels, *padded), x.dtype)
    for offset in np.ndindex(*block):
        where = tuple(
            slice(
                offset[axis] * dilations[axis],
                offset[axis] * dilations[axis] + (counts[axis] - 1) * strides[axis] + 1,
                strides[axis],
            )
            for axis in range(rank)
        )
        result = result.at[(slice(None), slice(None), *where)].add(columns[(slice(None), slice(None), *offset)])
    inner = tuple(slice(flat[axis], flat[axis] + image[axis]) for axis in range(rank))
    return result[(slice(None), slice(None), *inner)]
