"""Evaluation at trace time: shape arithmetic over numbers and symbolic dimensions, in numpy.

A function here is called only when every input is known. Arrays of dtype object hold symbolic dimensions; numpy applies
the operator of each element, so most functions serve both. NotImplemented leaves the operator to the running program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import on_host
from targets.xla.lowering.shape import target_shape
from targets.xla.lowering.values import dims_from, ints_from, is_symbolic, object_array

_Array = np.ndarray[Any, Any]


def _tidy(result: Any, like: _Array) -> _Array:
    """Return the result as an array: int64 when no symbol is left, else in the type of `like`."""
    result = np.asarray(result)
    if result.dtype == object:
        return object_array(list(result.reshape(-1)), result.shape)
    return np.asarray(result, dtype=np.int64 if like.dtype == object else like.dtype)


def _is_integer(*values: _Array) -> bool:
    return all(value.dtype == object or value.dtype.kind in "iu" for value in values)


def _is_wide(*values: _Array) -> bool:
    return all(value.dtype == object or value.dtype in (np.int64, np.int32) for value in values)


def _arithmetic(op_type: str, function: Callable[[Any, Any], Any]) -> None:
    @on_host(op_type)
    def evaluate(call: Call, a: _Array, b: _Array) -> Any:
        if not _is_wide(a, b):
            return NotImplemented
        result = function(a, b)
        return NotImplemented if result is NotImplemented else _tidy(result, a if a.dtype != object else b)


def _divided(a: Any, b: Any) -> Any:
    """Return the quotient toward zero; of symbolic dimensions only where it is decided that floor division is that."""
    if is_symbolic(a) or is_symbolic(b):
        is_floor = np.all(b > 0) and (np.all(a % b == 0) or np.all(a >= 0))
        return a // b if is_floor else NotImplemented
    quotient = np.abs(a) // np.where(b == 0, 1, np.abs(b))
    return np.where((a < 0) != (b < 0), -quotient, quotient)


_arithmetic("Add", lambda a, b: a + b)
_arithmetic("Sub", lambda a, b: a - b)
_arithmetic("Mul", lambda a, b: a * b)
_arithmetic("Div", _divided)


@on_host("Mod")
def modulo(call: Call, a: _Array, b: _Array) -> Any:
    if not _is_wide(a, b) or call.integer("fmod"):
        return NotImplemented
    return _tidy(a % b, a)


@on_host("Neg")
def negated(call: Call, x: _Array) -> Any:
    return _tidy(-x, x) if _is_wide(x) else NotImplemented


def _choice(op_type: str, name: str) -> None:
    @on_host(op_type)
    def evaluate(call: Call, *values: _Array) -> Any:
        import jax

        if not _is_wide(*values):
            return NotImplemented
        choose = np.vectorize(getattr(jax.core, name), otypes=[object])
        result: Any = values[0]
        for value in values[1:]:
            result = choose(result, value)
        return _tidy(result, values[0])


_choice("Max", "max_dim")
_choice("Min", "min_dim")


def _is_equal(a: Any, b: Any) -> bool:
    """Return whether two dimensions are equal; jax raises when that can't be decided for all values of the symbols."""
    difference = a - b
    if isinstance(difference, int | np.integer):
        return bool(difference == 0)
    return not (a > b or a < b)


def _comparison(op_type: str, function: Callable[[Any, Any], Any]) -> None:
    @on_host(op_type)
    def evaluate(call: Call, a: _Array, b: _Array) -> Any:
        if not _is_integer(a, b):
            return NotImplemented
        return np.asarray(np.vectorize(function, otypes=[bool])(a, b), dtype=bool)


_comparison("Equal", _is_equal)
_comparison("Greater", lambda a, b: bool(a > b))
_comparison("GreaterOrEqual", lambda a, b: bool(a >= b))
_comparison("Less", lambda a, b: bool(a < b))
_comparison("LessOrEqual", lambda a, b: bool(a <= b))


@on_host("Not")
def inverted(call: Call, x: _Array) -> Any:
    return ~x if x.dtype == bool else NotImplemented


@on_host("Where")
def chosen(call: Call, condition: _Array, a: _Array, b: _Array) -> Any:
    if condition.dtype != bool or not _is_wide(a, b):
        return NotImplemented
    return _tidy(np.where(condition, a, b), a if a.dtype != object else b)


@on_host("Identity")
def same(call: Call, x: _Array) -> Any:
    return x


@on_host("Cast")
def cast(call: Call, x: _Array) -> Any:
    import onnx_ir as ir

    kind = ir.DataType(call.integer("to"))
    if is_symbolic(x):
        return x if kind in (ir.DataType.INT64, ir.DataType.INT32) else NotImplemented
    if x.dtype.kind not in "iub" or kind not in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT):
        return NotImplemented
    return x.astype(kind.numpy())


@on_host("Concat")
def concat(call: Call, *values: _Array) -> Any:
    return _tidy(np.concatenate(values, axis=call.integer("axis")), values[0])


@on_host("Gather")
def gather(call: Call, x: _Array, indices: _Array) -> Any:
    return _tidy(np.take(x, indices.astype(np.int64), axis=call.integer("axis")), x)


@on_host("Slice")
def slice_(call: Call, x: _Array, *bounds: Any) -> Any:
    from targets.xla.lowering.shape import slice_ as device_slice
    from targets.xla.lowering.shape import slice_by_attributes

    return slice_by_attributes(call, x) if call.opset < 10 else device_slice(call, x, *bounds)


def _axes(call: Call, given: tuple[Any, ...]) -> list[int] | None:
    return ints_from(given[0], "the axes") if given and given[0] is not None else call.integers("axes")


@on_host("Squeeze")
def squeeze(call: Call, x: _Array, *axes: Any) -> Any:
    chosen_axes = _axes(call, axes)
    return np.squeeze(x, None if chosen_axes is None else tuple(chosen_axes))


@on_host("Unsqueeze")
def unsqueeze(call: Call, x: _Array, *axes: Any) -> Any:
    return np.expand_dims(x, tuple(_axes(call, axes) or ()))


@on_host("Reshape")
def reshape(call: Call, x: _Array, shape: _Array) -> Any:
    wanted = ints_from(shape, "the new shape")
    return x.reshape(target_shape(tuple(wanted), x.shape, allow_zero=bool(call.integer("allowzero"))))


@on_host("Transpose")
def transpose(call: Call, x: _Array) -> Any:
    return np.transpose(x, call.integers("perm"))


@on_host("Split")
def split(call: Call, x: _Array, *sizes: Any) -> Any:
    given = ints_from(sizes[0], "the sizes") if sizes and sizes[0] is not None else call.integers("split")
    if given is None:
        return NotImplemented
    return tuple(np.split(x, np.cumsum(given)[:-1], axis=call.integer("axis")))


@on_host("ReduceProd")
def product(call: Call, x: _Array, *axes: Any) -> Any:
    return _reduced(call, x, axes, np.prod)


@on_host("ReduceSum")
def total(call: Call, x: _Array, *axes: Any) -> Any:
    return _reduced(call, x, axes, np.sum)


def _reduced(call: Call, x: _Array, axes: tuple[Any, ...], function: Callable[..., Any]) -> Any:
    chosen_axes = _axes(call, axes)
    if not _is_wide(x) or (not chosen_axes and call.integer("noop_with_empty_axes")):
        return NotImplemented
    return _tidy(
        function(x, axis=tuple(chosen_axes) if chosen_axes else None, keepdims=bool(call.integer("keepdims", 1))), x
    )


@on_host("Expand")
def expand(call: Call, x: _Array, shape: _Array) -> Any:
    dims = dims_from(shape, "the new shape")
    if not all(isinstance(dim, int) for dim in dims):
        return NotImplemented
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, dims)).copy()


@on_host("ConstantOfShape")
def constant_of_shape(call: Call, shape: _Array) -> Any:
    if is_symbolic(shape):
        return NotImplemented
    value = call.tensor("value")
    value = np.zeros(1, np.float32) if value is None else value
    return np.full(tuple(shape.tolist()), value.reshape(()), dtype=value.dtype)


@on_host("Range")
def range_(call: Call, start: _Array, limit: _Array, delta: _Array) -> Any:
    if not all(value.dtype.kind in "iu" for value in (start, limit, delta)):
        return NotImplemented
    return np.arange(int(start.item()), int(limit.item()), int(delta.item()), dtype=start.dtype)
