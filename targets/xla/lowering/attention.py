"""Attention and rotary position embedding."""

from __future__ import annotations

import math
from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers


@lowers("RotaryEmbedding", since=23)
def rotary_embedding(call: Call, x: Any, cos: Any, sin: Any, position_ids: Any = None) -> Any:
    """Return x [B, H, S, D] or [B, S, H*D] with pairs of its first `rotary_embedding_dim` features rotated.

    cos, sin: caches [P, R/2] read at position_ids [B, S], or [B, S, R/2] without them.
    """
    import jax.numpy as jnp

    x = jnp.asarray(x)
    flat = x.ndim == 3
    if flat:
        heads = call.integer("num_heads")
        y = x.reshape((x.shape[0], x.shape[1], heads, x.shape[2] // heads))  # [B, S, H, D]
    else:
        y = x.transpose(0, 2, 1, 3)  # [B, S, H, D]
    size = call.integer("rotary_embedding_dim") or y.shape[3]
    turned, kept = y[..., :size], y[..., size:]
    if position_ids is not None:
        cos, sin = jnp.take(cos, position_ids, axis=0), jnp.take(sin, position_ids, axis=0)
    cos, sin = jnp.expand_dims(cos, 2), jnp.expand_dims(sin, 2)  # [B, S, 1, R/2]
    if call.integer("interleaved"):
        real, imaginary = turned[..., 0::2], turned[..., 1::2]
    else:
        real, imaginary = turned[..., : size // 2], turned[..., size // 2 :]
    pair = (real * cos - imaginary * sin, real * sin + imaginary * cos)
    if call.integer("interleaved"):
        turned = jnp.stack(pair, axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate(pair, axis=-1)
    y = jnp.concatenate((turned, kept), axis=-1).astype(x.dtype)
    return y.reshape(x.shape) if flat else y.transpose(0, 2, 1, 3)


def _heads(x: Any, count: int) -> Any:
    """Return [B, S, H*D] as [B, H, S, D]; four dimensions stay."""
    if x.ndim == 4:
        return x
    return x.reshape((x.shape[0], x.shape[1], count, x.shape[2] // count)).transpose(0, 2, 1, 3)


@lowers("Attention", since=23)
def attention(
    call: Call,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    past_key: Any = None,
    past_value: Any = None,
    valid_length: Any = None,
) -> Any:
    """Return softmax(scale Q K' + mask) V, the present keys and values, and the scores, as wanted.

    q [B, Hq, Sq, D] or [B, Sq, Hq*D]; k, v with Hk heads, each shared by Hq / Hk query heads. The softmax is taken in
    float32 at least.
    """
    import jax
    import jax.numpy as jnp

    flat = q.ndim == 3
    q = _heads(jnp.asarray(q), call.integer("q_num_heads"))
    k = _heads(jnp.asarray(k), call.integer("kv_num_heads"))
    v = _heads(jnp.asarray(v), call.integer("kv_num_heads"))
    past_length: Any = 0
    if past_key is not None:
        past_length = past_key.shape[2]
        k, v = jnp.concatenate((past_key, k), axis=2), jnp.concatenate((past_value, v), axis=2)
    present = (k, v)
    if q.shape[1] != k.shape[1]:
        shared = q.shape[1] // k.shape[1]
        k, v = jnp.repeat(k, shared, axis=1), jnp.repeat(v, shared, axis=1)
    # Half of the scale goes to each side, as the specification does to keep low precision in range.
    root = math.sqrt(call.number("scale") if call.has("scale") else 1 / math.sqrt(q.shape[3]))
    scores = jnp.einsum("bhqd,bhkd->bhqk", (q * root).astype(q.dtype), (k * root).astype(k.dtype))
    mode, cap = call.integer("qk_matmul_output_mode"), call.number("softcap")
    stages = [scores]  # what the fourth output may be: product, capped, masked, softmax
    scores = (cap * jnp.tanh(scores / cap)).astype(scores.dtype) if cap else scores
    stages.append(scores)
    bias = _bias(call, q, k, mask, past_length, valid_length)
    scores = scores if bias is None else scores + bias.astype(scores.dtype)
    stages.append(scores)
    wide = scores.astype(jnp.float32) if scores.dtype.itemsize < 4 else scores
    weights = jax.nn.softmax(wide, axis=-1).astype(scores.dtype)
    if bias is not None:
        # A query that may attend to nothing gets zeros; told by the bias, so that a NaN in the data stays one.
        weights = jnp.where(jnp.isneginf(jnp.max(bias, axis=-1, keepdims=True)), 0, weights)
    stages.append(weights)
    y = jnp.einsum("bhqk,bhkd->bhqd", weights, v).astype(q.dtype)
    if flat:
        y = y.transpose(0, 2, 1, 3).reshape((y.shape[0], y.shape[2], y.shape[1] * y.shape[3]))
    return (y, *present, stages[mode])[: call.output_count] if call.output_count > 1 else y


def _bias(call: Call, q: Any, k: Any, mask: Any, past_length: Any, valid_length: Any) -> Any:
    """Return what is added to the scores [B, H, Sq, Sk], or None: mask, causality, windows, valid length."""
    import jax.numpy as jnp
    from jax import lax

    bias = None
    lowest = -jnp.inf
    if mask is not None:
        mask = jnp.asarray(mask)
        bias = jnp.where(mask, 0.0, lowest).astype(q.dtype) if mask.dtype == bool else mask
        missing = k.shape[2] - mask.shape[-1]
        if not isinstance(missing, int):  # two symbols that may be equal: no padding can be told from them
            columns = lax.iota(jnp.int32, k.shape[2])
            bias = jnp.take(bias, columns, axis=-1, mode="fill", fill_value=lowest)
        elif missing:
            bias = jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, missing)], constant_values=lowest)
    shape = (q.shape[2], k.shape[2])
    column = lax.broadcasted_iota(jnp.int64, shape, 1)
    # A query's own position among the keys: after the cache's, which end at `valid_length` when that is given.
    position = lax.broadcasted_iota(jnp.int64, shape, 0) + jnp.asarray(past_length, jnp.int64)
    length = None if valid_length is None else jnp.asarray(valid_length).reshape(-1, 1, 1, 1)
    if length is not None and isinstance(past_length, int) and past_length == 0:
        position = position + length - q.shape[2]
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    allowed = [column <= position] if call.integer("is_causal") else []
    allowed += [position - column <= left] if left >= 0 else []
    allowed += [column - position <= right] if right >= 0 else []
    allowed += [column < length] if length is not None else []
    for condition in allowed:
        part = jnp.where(condition, 0.0, lowest).astype(q.dtype)
        bias = part if bias is None else bias + part
    return bias
