"""Sampling at positions that the data gives: grids and regions of interest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import ints_from


@lowers("AffineGrid", since=20, host=(1,))
def affine_grid(call: Call, theta: Any, size: Any) -> Any:
    """Return the grid [N, (D,) H, W, 2 or 3] of normalized coordinates that theta [N, r, r + 1] maps."""
    import jax.numpy as jnp

    spatial = ints_from(size, "the grid's size")[2:]
    aligned = bool(call.integer("align_corners"))
    axes = [np.linspace(-1, 1, count) if aligned else (2 * np.arange(count) + 1) / count - 1 for count in spatial]
    mesh = np.meshgrid(*axes, indexing="ij")
    points = np.stack([*reversed(mesh), np.ones(spatial)], axis=-1).astype(np.float32)  # [..., x, y, (z,) 1]
    return jnp.einsum("...k,njk->n...j", points, theta).astype(theta.dtype)


@lowers("GridSample", since=16)
def grid_sample(call: Call, x: Any, grid: Any) -> Any:
    """Return x [N, C, ...] read at grid [N, ..., rank], whose last axis is (x, y(, z)) in [-1, 1]."""
    import jax
    import jax.numpy as jnp

    aligned = bool(call.integer("align_corners"))
    mode, padding = call.text("mode", "linear"), call.text("padding_mode", "zeros")
    spatial = x.shape[2:]
    positions = []
    for axis, size in enumerate(spatial):
        unit = grid[..., len(spatial) - 1 - axis]
        positions.append((unit + 1) / 2 * (size - 1) if aligned else ((unit + 1) * size - 1) / 2)

    def read(image: Any, index: list[Any]) -> Any:
        """Return image [C, ...] at integer positions, each [...], by the padding mode."""
        inside: Any = True
        taken = []
        for place, size in zip(index, spatial, strict=True):
            if padding == "zeros":
                inside = inside & (place >= 0) & (place <= size - 1)
            elif padding == "reflection":
                low, high = (0, size - 1) if aligned else (-0.5, size - 0.5)
                place = _reflected(place, low, high)
            taken.append(jnp.clip(place, 0, size - 1).astype(jnp.int32))
        values = image[(slice(None), *taken)]
        return jnp.where(inside, values, 0) if padding == "zeros" else values

    def sample(image: Any, places: list[Any]) -> Any:
        if mode == "nearest":
            return read(image, [jnp.rint(place) for place in places])
        weigh = _cubic_taps if mode in ("cubic", "bicubic") else _linear_taps
        taps = [weigh(place) for place in places]
        total: Any = 0
        for choice in itertools.product(*taps):
            weight: Any = 1
            for _, factor in choice:
                weight = weight * factor
            total = total + read(image, [place for place, _ in choice]) * weight
        return total

    return jax.vmap(sample)(jnp.asarray(x), positions).astype(x.dtype)


def _reflected(place: Any, low: float, high: float) -> Any:
    import jax.numpy as jnp

    span = high - low
    if span == 0:
        return jnp.zeros_like(place)
    turn = jnp.mod(place - low, 2 * span)
    return jnp.where(turn > span, 2 * span - turn, turn) + low


def _linear_taps(place: Any) -> list[tuple[Any, Any]]:
    import jax.numpy as jnp

    floor = jnp.floor(place)
    return [(floor, 1 - (place - floor)), (floor + 1, place - floor)]


def _cubic_taps(place: Any, a: float = -0.75) -> list[tuple[Any, Any]]:
    import jax.numpy as jnp

    floor = jnp.floor(place)
    taps = []
    for offset in range(-1, 3):
        t = jnp.abs(place - floor - offset)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        taps.append((floor + offset, jnp.where(t <= 1, near, jnp.where(t < 2, far, 0))))
    return taps
