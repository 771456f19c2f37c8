"""Normalizations. Means and variances are taken in float32 at least, whatever the tensor's type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unsupported, widened


def _standardized(x: Any, axes: Sequence[int], epsilon: float) -> tuple[Any, Any, Any]:
    """Return (x - mean) / sqrt(variance + epsilon) over `axes`, the mean, and the inverse deviation."""
    import jax.numpy as jnp
    from jax import lax

    mean = jnp.mean(x, axis=tuple(axes), keepdims=True)
    centred = x - mean
    inverse = lax.rsqrt(jnp.mean(centred * centred, axis=tuple(axes), keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


def _by_channel(parameter: Any, rank: int) -> Any:
    """Return parameter [C] shaped [1, C, 1, ...]."""
    return parameter.reshape([1, -1] + [1] * (rank - 2))


@lowers("BatchNormalization", since=7)
def batch_normalization(call: Call, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    wide, epsilon = widened(x), call.number("epsilon", 1e-5)
    if not call.integer("training_mode"):
        factor = widened(scale) * lax.rsqrt(widened(variance) + epsilon)
        offset = widened(bias) - widened(mean) * factor
        return (wide * _by_channel(factor, x.ndim) + _by_channel(offset, x.ndim)).astype(x.dtype)
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    seen_mean, seen_variance = jnp.mean(wide, axis=axes), jnp.var(wide, axis=axes)
    momentum = call.number("momentum", 0.9)
    factor = widened(scale) * lax.rsqrt(seen_variance + epsilon)
    y = (wide - _by_channel(seen_mean, x.ndim)) * _by_channel(factor, x.ndim) + _by_channel(widened(bias), x.ndim)
    running_mean = mean * momentum + seen_mean * (1 - momentum)
    running_variance = variance * momentum + seen_variance * (1 - momentum)
    return y.astype(x.dtype), running_mean.astype(mean.dtype), running_variance.astype(variance.dtype)


@lowers("LayerNormalization", since=17)
def layer_normalization(call: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    """Return x standardized over the axes from `axis` on, and the mean and inverse deviation where wanted."""
    wide = widened(x)
    axes = range(call.integer("axis", -1) % x.ndim, x.ndim)
    normed, mean, inverse = _standardized(wide, axes, call.number("epsilon", 1e-5))
    # The specification rounds to the tensor's type before it scales.
    y = normed.astype(x.dtype) * scale
    y = (y if bias is None else y + bias).astype(x.dtype)
    return (y, mean, inverse)[: call.output_count] if call.output_count > 1 else y


@lowers("SkipLayerNormalization", since=1, domain="com.microsoft")
def skip_layer_normalization(call: Call, x: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None) -> Any:
    """Return LayerNormalization(x + skip + bias) over the last axis; the fourth output is that sum."""
    total = x + skip if bias is None else x + skip + bias
    normed, mean, inverse = _standardized(widened(total), [x.ndim - 1], call.number("epsilon", 1e-5))
    y = normed.astype(x.dtype) * gamma
    y = (y if beta is None else y + beta).astype(x.dtype)
    return (y, mean, inverse, total)[: call.output_count] if call.output_count > 1 else y


@lowers("RMSNormalization", since=23)
def rms_normalization(call: Call, x: Any, scale: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    wide = widened(x)
    axes = tuple(range(call.integer("axis", -1) % x.ndim, x.ndim))
    inverse = lax.rsqrt(jnp.mean(wide * wide, axis=axes, keepdims=True) + call.number("epsilon", 1e-5))
    return ((wide * inverse).astype(x.dtype) * scale).astype(x.dtype)


@lowers("InstanceNormalization", since=6)
def instance_normalization(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    normed, _, _ = _standardized(widened(x), range(2, x.ndim), call.number("epsilon", 1e-5))
    return (normed * _by_channel(widened(scale), x.ndim) + _by_channel(widened(bias), x.ndim)).astype(x.dtype)


@lowers("GroupNormalization", since=18)
def group_normalization_by_group(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    """Return the group normalization of opset 18, whose scale and bias are [groups]."""
    groups = call.integer("num_groups")
    per_group = x.shape[1] // groups
    import jax.numpy as jnp

    return _group_norm(call, x, jnp.repeat(scale, per_group), jnp.repeat(bias, per_group))


@lowers("GroupNormalization", since=21)
def group_normalization(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    return _group_norm(call, x, scale, bias)


def _group_norm(call: Call, x: Any, scale: Any, bias: Any) -> Any:
    groups = call.integer("num_groups")
    wide = widened(x)
    grouped = wide.reshape((x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    normed, _, _ = _standardized(grouped, range(2, grouped.ndim), call.number("epsilon", 1e-5))
    normed = normed.reshape(x.shape)
    return (normed * _by_channel(widened(scale), x.ndim) + _by_channel(widened(bias), x.ndim)).astype(x.dtype)


@lowers("MeanVarianceNormalization", since=9)
def mean_variance_normalization(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    axes = tuple(axis % x.ndim for axis in call.integers("axes") or [0, 2, 3])
    wide = widened(x)
    mean = jnp.mean(wide, axis=axes, keepdims=True)
    deviation = jnp.sqrt(jnp.mean((wide - mean) ** 2, axis=axes, keepdims=True))
    return ((wide - mean) / (deviation + 1e-9)).astype(x.dtype)


@lowers("LpNormalization", since=1)
def lp_normalization(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    axis, wide = call.integer("axis", -1), widened(x)
    if call.integer("p", 2) == 1:
        norm = jnp.sum(jnp.abs(wide), axis=axis, keepdims=True)
    else:
        norm = jnp.sqrt(jnp.sum(wide * wide, axis=axis, keepdims=True))
    return jnp.where(norm == 0, 0, wide / jnp.where(norm == 0, 1, norm)).astype(x.dtype)


@lowers("LRN", since=1)
def local_response_normalization(call: Call, x: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    size, wide = call.integer("size"), widened(x)
    before = (size - 1) // 2
    pads = [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
    squares = lax.reduce_window(
        jnp.square(wide),
        jnp.zeros((), wide.dtype),
        lax.add,
        window_dimensions=(1, size) + (1,) * (x.ndim - 2),
        window_strides=(1,) * x.ndim,
        padding=pads,
    )
    base = call.number("bias", 1.0) + call.number("alpha", 1e-4) / size * squares
    return (wide / base ** call.number("beta", 0.75)).astype(x.dtype)


def _soft(call: Call, x: Any, *, log: bool) -> Any:
    import jax

    function = jax.nn.log_softmax if log else jax.nn.softmax
    if call.opset >= 13:
        return function(widened(x), axis=call.integer("axis", -1)).astype(x.dtype)
    # Before opset 13 the tensor is one matrix, split at `axis`.
    axis = call.integer("axis", 1) % x.ndim
    return function(widened(x), axis=tuple(range(axis, x.ndim))).astype(x.dtype)


@lowers("Softmax", since=1)
def softmax(call: Call, x: Any) -> Any:
    return _soft(call, x, log=False)


@lowers("LogSoftmax", since=1)
def log_softmax(call: Call, x: Any) -> Any:
    return _soft(call, x, log=True)


@lowers("Hardmax", since=1)
def hardmax(call: Call, x: Any) -> Any:
    """Return one at the first maximum along the axis, zero elsewhere."""
    import jax
    import jax.numpy as jnp

    if call.opset < 13:
        axis = call.integer("axis", 1) % x.ndim
        if not all(isinstance(size, int) for size in x.shape):
            raise Unsupported("Hardmax before opset 13 over symbolic dimensions")
        rows = 1
        for size in x.shape[:axis]:
            rows *= size
        flat = jnp.reshape(x, (rows, -1))
        return jax.nn.one_hot(jnp.argmax(flat, axis=1), flat.shape[1], dtype=x.dtype).reshape(x.shape)
    axis = call.integer("axis", -1) % x.ndim
    return jax.nn.one_hot(jnp.argmax(x, axis=axis), x.shape[axis], axis=axis, dtype=x.dtype)
