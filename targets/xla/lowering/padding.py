"""Padding, and moving blocks between channels, space and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import dims_from, ints_from


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
