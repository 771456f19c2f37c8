"""Picking and placing elements by index. Negative indices count from the end."""

from __future__ import annotations

from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unknown, ints_from, is_host


def _wrapped(indices: Any, size: Any) -> Any:
    """Return indices with the negative ones counted from the end of an axis of `size`."""
    import jax.numpy as jnp

    if is_host(indices) and isinstance(size, int):
        return np.where(indices < 0, indices + size, indices)
    indices = jnp.asarray(indices)
    return jnp.where(indices < 0, indices + jnp.asarray(size, indices.dtype), indices)


@lowers("Gather", since=1)
def gather(call: Call, x: Any, indices: Any) -> Any:
    import jax.numpy as jnp

    axis = call.integer("axis") % x.ndim
    return jnp.take(x, _wrapped(indices, x.shape[axis]), axis=axis, mode="clip")


@lowers("GatherElements", since=11)
def gather_elements(call: Call, x: Any, indices: Any) -> Any:
    import jax.numpy as jnp

    axis = call.integer("axis") % x.ndim
    x = jnp.asarray(x)
    indices = jnp.asarray(_wrapped(indices, x.shape[axis]))
    return x[_element_index(indices, axis)]


def _element_index(indices: Any, axis: int) -> tuple[Any, ...]:
    """Return the full index of every element of `indices`, whose values replace the position along `axis`."""
    from jax import lax

    own = [lax.broadcasted_iota(indices.dtype, indices.shape, dim) for dim in range(indices.ndim)]
    own[axis] = indices
    return tuple(own)


@lowers("GatherND", since=11)
def gather_nd(call: Call, x: Any, indices: Any) -> Any:
    import jax
    import jax.numpy as jnp

    x, indices = jnp.asarray(x), jnp.asarray(indices)

    def gather_one(data: Any, index: Any) -> Any:
        columns = [_wrapped(index[..., column], data.shape[column]) for column in range(index.shape[-1])]
        return data[tuple(columns)]

    for _ in range(call.integer("batch_dims")):
        gather_one = jax.vmap(gather_one)
    return gather_one(x, indices)


@lowers("ScatterElements", since=11)
def scatter_elements(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    import jax.numpy as jnp

    axis = call.integer("axis") % x.ndim
    x = jnp.asarray(x)
    where = _element_index(jnp.asarray(_wrapped(indices, x.shape[axis])), axis)
    return _placed(x, where, updates, call.text("reduction", "none"))


@lowers("Scatter", since=9)
def scatter(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    return scatter_elements(call, x, indices, updates)


def _placed(x: Any, where: tuple[Any, ...], updates: Any, reduction: str) -> Any:
    place = {"none": "set", "add": "add", "mul": "multiply", "min": "min", "max": "max"}[reduction]
    return getattr(x.at[where], place)(updates)


@lowers("ScatterND", since=11)
def scatter_nd(call: Call, x: Any, indices: Any, updates: Any) -> Any:
    import jax.numpy as jnp

    x, indices = jnp.asarray(x), jnp.asarray(indices)
    columns = tuple(_wrapped(indices[..., column], x.shape[column]) for column in range(indices.shape[-1]))
    return _placed(x, columns, jnp.asarray(updates), call.text("reduction", "none"))


@lowers("TensorScatter", since=24)
def tensor_scatter(call: Call, past: Any, update: Any, write_indices: Any = None) -> Any:
    """Return the cache `past` with `update` written along `axis`, for each batch from its write index on."""
    import jax.numpy as jnp
    from jax import lax

    past, update = jnp.asarray(past), jnp.asarray(update)
    axis = call.integer("axis", -2) % past.ndim
    start = jnp.zeros((past.shape[0],), jnp.int64) if write_indices is None else jnp.asarray(write_indices)
    position = lax.broadcasted_iota(start.dtype, update.shape, axis)
    position = position + start.reshape([-1] + [1] * (past.ndim - 1))
    if call.text("mode", "linear") == "circular":
        position = position % past.shape[axis]
    return past.at[_element_index(position, axis)].set(update)


@lowers("OneHot", since=9, host=(1,))
def one_hot(call: Call, indices: Any, depth: Any, values: Any) -> Any:
    """Return values[1] where the index is, values[0] elsewhere; a new axis of `depth`."""
    import jax.numpy as jnp

    size = ints_from(depth, "the depth")[0]
    indices = _wrapped(jnp.asarray(indices), size)
    axis = call.integer("axis", -1) % (indices.ndim + 1)
    classes = jnp.arange(size, dtype=indices.dtype).reshape(
        [-1 if dim == axis else 1 for dim in range(indices.ndim + 1)]
    )
    return jnp.where(jnp.expand_dims(indices, axis) == classes, values[1], values[0])


@lowers("Trilu", since=14, host=(1,))
def triangle(call: Call, x: Any, k: Any = None) -> Any:
    import jax.numpy as jnp
    from jax import lax

    x = jnp.asarray(x)
    offset = 0 if k is None else ints_from(k, "the diagonal")[0]
    rows = lax.broadcasted_iota(jnp.int64, x.shape, x.ndim - 2)
    columns = lax.broadcasted_iota(jnp.int64, x.shape, x.ndim - 1)
    kept = columns - rows >= offset if call.integer("upper", 1) else columns - rows <= offset
    return jnp.where(kept, x, jnp.zeros((), x.dtype))


@lowers("TopK", since=1)
def top_k_by_attribute(call: Call, x: Any) -> Any:
    return _top_k(call, x, call.integer("k"))


@lowers("TopK", since=10, host=(1,))
def top_k(call: Call, x: Any, k: Any) -> Any:
    return _top_k(call, x, ints_from(k, "k")[0])


def _top_k(call: Call, x: Any, k: int) -> Any:
    """Return the k largest or smallest, sorted, and where they stand; equal ones keep their order."""
    import jax.numpy as jnp
    from jax import lax

    x = jnp.asarray(x)
    axis = call.integer("axis", -1) % x.ndim
    order = lax.broadcasted_iota(jnp.int64, x.shape, axis)
    largest = bool(call.integer("largest", 1))
    key = _descending(x) if largest else x
    sorted_key, positions = lax.sort((key, order), dimension=axis, num_keys=1, is_stable=True)
    del sorted_key
    positions = lax.slice_in_dim(positions, 0, k, axis=axis)
    return jnp.take_along_axis(x, positions, axis=axis), positions


def _descending(x: Any) -> Any:
    """Return keys whose ascending order is the descending order of x."""
    import jax.numpy as jnp

    return -x if jnp.issubdtype(x.dtype, jnp.floating) else ~x


@lowers("ReverseSequence", since=10)
def reverse_sequence(call: Call, x: Any, lengths: Any) -> Any:
    """Return x with the first lengths[b] steps of each batch entry reversed."""
    import jax.numpy as jnp
    from jax import lax

    x = jnp.asarray(x)
    time, batch = call.integer("time_axis", 0), call.integer("batch_axis", 1)
    step = lax.broadcasted_iota(jnp.int64, x.shape, time)
    length = jnp.reshape(jnp.asarray(lengths), [-1 if dim == batch else 1 for dim in range(x.ndim)])
    return jnp.take_along_axis(x, jnp.where(step < length, length - 1 - step, step), axis=time)


@lowers("NonZero", since=9, host=(0,))
def non_zero(call: Call, x: Any) -> Any:
    """Return the indices [rank, count]; the count must be known, so x must be."""
    return np.array(np.nonzero(x), dtype=np.int64)


@lowers("Compress", since=9, host=(1,))
def compress(call: Call, x: Any, condition: Any) -> Any:
    import jax.numpy as jnp

    kept = np.nonzero(np.asarray(condition))[0]
    if not call.has("axis"):
        return jnp.take(jnp.reshape(x, -1), kept)
    return jnp.take(x, kept, axis=call.integer("axis"))


@lowers("Unique", since=11, host=(0,))
def unique(call: Call, x: Any) -> Any:
    """Return the distinct elements or slices of a value known at trace time, sorted or by first appearance."""
    if not is_host(x):
        raise Unknown("the number of distinct elements depends on the data")
    axis = call.integer("axis") if call.has("axis") else None
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not call.integer("sorted", 1):
        order = np.argsort(first)
        values, first, counts = np.take(values, order, axis=axis or 0), first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    results = (values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64))
    return results[: call.output_count] if call.output_count > 1 else values
