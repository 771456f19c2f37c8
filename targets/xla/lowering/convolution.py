"""Convolutions. Quantized operands are convolved as int8 with int32 accumulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from passes.base import node_label
from targets.xla.lowering.call import Call
from targets.xla.lowering.direct import float_convolution, numbers
from targets.xla.lowering.integer import integer_convolution
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Dequantized, Unsupported, on_device
from targets.xla.lowering.windows import window_of


@lowers("Conv", since=1, takes_quantized=True)
def convolution(call: Call, x: Any, w: Any, bias: Any = None) -> Any:
    """Return the convolution of x [N, C, ...] with w [O, C/g, ...], plus bias [O]."""
    window = window_of(call, x.shape[2:], w.shape[2:])
    groups = call.integer("group", 1)
    result = None
    if isinstance(x, Dequantized) and isinstance(w, Dequantized):
        result = integer_convolution(x, w, window, groups)
    if result is not None:
        call.note_int8(node_label(call.node))
    else:
        result = float_convolution(on_device(x), on_device(w), window, groups)
    return with_bias(result, bias)


def with_bias(result: Any, bias: Any) -> Any:
    """Return result [N, O, ...] plus bias [O]."""
    if bias is None:
        return result
    return result + on_device(bias).reshape([1, -1] + [1] * (result.ndim - 2)).astype(result.dtype)


@lowers("ConvTranspose", since=1)
def transposed_convolution(call: Call, x: Any, w: Any, bias: Any = None) -> Any:
    """Return the transposed convolution of x [N, C, ...] with w [C, O/g, ...]: the input spread out by the strides."""
    import jax.numpy as jnp
    from jax import lax

    rank = len(x.shape) - 2
    groups = call.integer("group", 1)
    strides = call.integers("strides") or [1] * rank
    dilations = call.integers("dilations") or [1] * rank
    extra = call.integers("output_padding") or [0] * rank
    reach = [(size - 1) * step + 1 for size, step in zip(w.shape[2:], dilations, strict=True)]
    pads = _transposed_pads(call, x.shape[2:], strides, reach, extra)
    # [C, O/g, ...] -> [g, C/g, O/g, ...] -> [g * O/g, C/g, ...], the kernel mirrored
    grouped = jnp.reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    kernel = jnp.swapaxes(grouped, 1, 2).reshape((groups * w.shape[1], w.shape[0] // groups, *w.shape[2:]))
    kernel = jnp.flip(kernel, tuple(range(2, rank + 2)))
    padding = [
        (size - 1 - low, size - 1 - high + more) for size, (low, high), more in zip(reach, pads, extra, strict=True)
    ]
    result = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=[1] * rank,
        padding=padding,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=numbers(rank + 2),
        feature_group_count=groups,
    )
    return with_bias(result, bias)


def _transposed_pads(
    call: Call, spatial: Sequence[Any], strides: list[int], reach: list[int], extra: list[int]
) -> list[tuple[Any, Any]]:
    rank = len(spatial)
    shape = call.integers("output_shape")
    mode = call.text("auto_pad", "NOTSET")
    if shape is None and mode in ("NOTSET", "", "VALID"):
        flat = call.integers("pads") or [0] * (2 * rank)
        return [(flat[axis], flat[axis + rank]) for axis in range(rank)]
    wanted: list[Any] = shape[-rank:] if shape else [size * step for size, step in zip(spatial, strides, strict=True)]
    pads = []
    for axis in range(rank):
        total = strides[axis] * (spatial[axis] - 1) + extra[axis] + reach[axis] - wanted[axis]
        if not isinstance(total, int):
            raise Unsupported("the pads of ConvTranspose depend on a symbolic dimension")
        if total < 0 and shape is None:
            total = 0
        small = total // 2
        pads.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return pads
