"""Reductions, arg-reductions, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import ints_from, widened

_Reduce = Callable[[Any, tuple[int, ...], bool], Any]


def _sum(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    return jnp.sum(x, axis=axes, keepdims=keep, dtype=x.dtype)


def _mean(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp
    from jax import lax

    if jnp.issubdtype(x.dtype, jnp.integer):
        total = jnp.sum(x, axis=axes, keepdims=keep, dtype=x.dtype)
        count = 1
        for axis in axes:
            count = count * x.shape[axis]
        return lax.div(total, jnp.full(total.shape, count, x.dtype))
    return jnp.mean(x, axis=axes, keepdims=keep)


def _product(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    return jnp.prod(x, axis=axes, keepdims=keep, dtype=x.dtype)


def _max(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    return jnp.max(x, axis=axes, keepdims=keep, initial=None if _is_filled(x, axes) else _lowest(x.dtype))


def _min(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    return jnp.min(x, axis=axes, keepdims=keep, initial=None if _is_filled(x, axes) else _highest(x.dtype))


def _is_filled(x: Any, axes: tuple[int, ...]) -> bool:
    return not any(isinstance(x.shape[axis], int) and x.shape[axis] == 0 for axis in axes)


def _lowest(dtype: Any) -> Any:
    import jax.numpy as jnp

    if dtype == jnp.bool_:
        return False
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _highest(dtype: Any) -> Any:
    import jax.numpy as jnp

    if dtype == jnp.bool_:
        return True
    return jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max


def _l1(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    return _sum(jnp.abs(x), axes, keep)


def _l2(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    wide = widened(x)
    return jnp.sqrt(_sum(wide * wide, axes, keep).astype(jnp.result_type(wide.dtype, jnp.float32))).astype(x.dtype)


def _sum_square(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    wide = widened(x)
    return _sum(wide * wide, axes, keep).astype(x.dtype)


def _log_sum(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax.numpy as jnp

    return jnp.log(_sum(widened(x), axes, keep)).astype(x.dtype)


def _log_sum_exp(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    import jax

    return jax.nn.logsumexp(x, axis=axes, keepdims=keep).astype(x.dtype)


_REDUCTIONS: tuple[tuple[str, _Reduce, int], ...] = (
    # operator, function, the version from which axes are an input
    ("ReduceSum", _sum, 13),
    ("ReduceMean", _mean, 18),
    ("ReduceProd", _product, 18),
    ("ReduceMax", _max, 18),
    ("ReduceMin", _min, 18),
    ("ReduceL1", _l1, 18),
    ("ReduceL2", _l2, 18),
    ("ReduceSumSquare", _sum_square, 18),
    ("ReduceLogSum", _log_sum, 18),
    ("ReduceLogSumExp", _log_sum_exp, 18),
)


def _by_attribute(function: _Reduce) -> Callable[[Call, Any], Any]:
    def lower(call: Call, x: Any) -> Any:
        import jax.numpy as jnp

        axes = call.integers("axes")
        return function(jnp.asarray(x), _axes(axes, x.ndim), bool(call.integer("keepdims", 1)))

    return lower


def _by_input(function: _Reduce) -> Callable[..., Any]:
    def lower(call: Call, x: Any, axes: Any = None) -> Any:
        import jax.numpy as jnp

        chosen = None if axes is None else ints_from(axes, "the axes")
        if not chosen and call.integer("noop_with_empty_axes"):
            # ONNX applies the element-wise part (square, absolute value, log) even when nothing is reduced.
            return function(jnp.asarray(x)[None], (0,), False)
        return function(jnp.asarray(x), _axes(chosen, x.ndim), bool(call.integer("keepdims", 1)))

    return lower


def _axes(axes: list[int] | None, rank: int) -> tuple[int, ...]:
    return tuple(axis % rank for axis in axes) if axes else tuple(range(rank))


for _op_type, _function, _input_since in _REDUCTIONS:
    lowers(_op_type, since=1)(_by_attribute(_function))
    lowers(_op_type, since=_input_since, host=(1,))(_by_input(_function))


@lowers("ArgMax", since=1)
def arg_max(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return _arg(call, x, jnp.argmax)


@lowers("ArgMin", since=1)
def arg_min(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return _arg(call, x, jnp.argmin)


def _arg(call: Call, x: Any, find: Callable[..., Any]) -> Any:
    import jax.numpy as jnp

    axis = call.integer("axis") % x.ndim
    keep = bool(call.integer("keepdims", 1))
    if not call.integer("select_last_index"):
        return find(x, axis=axis, keepdims=keep).astype(jnp.int64)
    return x.shape[axis] - 1 - find(jnp.flip(x, axis), axis=axis, keepdims=keep).astype(jnp.int64)


@lowers("CumSum", since=11, host=(1,))
def cumulative_sum(call: Call, x: Any, axis: Any) -> Any:
    import jax.numpy as jnp

    return _cumulative(call, x, int(ints_from(axis, "the axis")[0]), jnp.cumsum, 0)


@lowers("CumProd", since=26, host=(1,))
def cumulative_product(call: Call, x: Any, axis: Any) -> Any:
    import jax.numpy as jnp

    return _cumulative(call, x, int(ints_from(axis, "the axis")[0]), jnp.cumprod, 1)


def _cumulative(call: Call, x: Any, axis: int, function: Callable[..., Any], neutral: int) -> Any:
    import jax.numpy as jnp
    from jax import lax

    x = jnp.asarray(x)
    axis %= x.ndim
    if call.integer("reverse"):
        x = jnp.flip(x, axis)
    result = function(x, axis=axis, dtype=x.dtype)
    if call.integer("exclusive"):
        pads = [(1, -1, 0) if position == axis else (0, 0, 0) for position in range(x.ndim)]
        result = lax.pad(result, jnp.asarray(neutral, x.dtype), pads)
    return jnp.flip(result, axis) if call.integer("reverse") else result
