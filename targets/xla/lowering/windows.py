"""The sliding windows of convolutions and pools: kernel, strides, dilations, pads from attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from targets.xla.lowering.call import Call

Pads = list[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Window:
    """One entry for each spatial axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: Pads

    @property
    def reach(self) -> list[int]:
        """The extent of the dilated kernel."""
        return [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]


def window_of(call: Call, spatial: Sequence[Any], kernel: Sequence[int]) -> Window:
    """Return the window over `spatial` dimensions, auto_pad resolved."""
    rank = len(spatial)
    strides = call.integers("strides") or [1] * rank
    dilations = call.integers("dilations") or [1] * rank
    window = Window(list(kernel), strides, dilations, [(0, 0)] * rank)
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        flat = call.integers("pads") or [0] * (2 * rank)
        pads: Pads = [(flat[axis], flat[axis + rank]) for axis in range(rank)]
    elif mode == "VALID":
        pads = [(0, 0)] * rank
    else:
        pads = [
            _same(size, stride, reach, upper=mode == "SAME_UPPER")
            for size, stride, reach in zip(spatial, strides, window.reach, strict=True)
        ]
    return Window(list(kernel), strides, dilations, pads)


def _same(size: Any, stride: int, reach: int, *, upper: bool) -> tuple[Any, Any]:
    """Return the pads that give ceil(size / stride) positions; the odd one goes to the end when `upper`."""
    count = -(-size // stride)
    total = (count - 1) * stride + reach - size
    if isinstance(total, int):
        total = max(total, 0)
    elif stride == 1:
        total = reach - 1
    else:
        import jax

        total = jax.core.max_dim(total, 0)
    half = total // 2
    return (half, total - half) if upper else (total - half, half)


def ceil_extra(window: Window, spatial: Sequence[Any]) -> list[Any]:
    """Return how far each axis must be padded at its end so that a ceil_mode pool covers it.

    The last window must start inside the input or its left padding, else it is dropped (as ORT and the specification
    do since opset 22).
    """
    import jax

    extra: list[Any] = []
    for size, reach, stride, (low, high) in zip(spatial, window.reach, window.strides, window.pads, strict=True):
        padded = size + low + high
        count = -((reach - padded) // stride) + 1
        count = jax.core.min_dim(count, (size + low - 1) // stride + 1)
        extra.append((count - 1) * stride + reach - padded)
    return extra
