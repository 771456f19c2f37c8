"""Element by element: arithmetic, roots, exponentials, trigonometry, rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers


def _register_unary() -> None:
    """Register the operators that are one jax function, by name."""
    table: tuple[tuple[str, int, str], ...] = (
        ("Abs", 6, "abs"),
        ("Acos", 7, "arccos"),
        ("Acosh", 9, "arccosh"),
        ("Asin", 7, "arcsin"),
        ("Asinh", 9, "arcsinh"),
        ("Atan", 7, "arctan"),
        ("Atanh", 9, "arctanh"),
        ("Ceil", 6, "ceil"),
        ("Cos", 7, "cos"),
        ("Cosh", 9, "cosh"),
        ("Exp", 6, "exp"),
        ("Floor", 6, "floor"),
        ("Log", 6, "log"),
        ("Neg", 6, "negative"),
        ("Round", 11, "rint"),
        ("Sign", 9, "sign"),
        ("Sin", 7, "sin"),
        ("Sinh", 9, "sinh"),
        ("Sqrt", 6, "sqrt"),
        ("Tan", 7, "tan"),
        ("Tanh", 6, "tanh"),
    )
    for op_type, since, name in table:
        lowers(op_type, since=since)(_jnp_unary(name))


def _jnp_unary(name: str) -> Callable[[Call, Any], Any]:
    def lower(call: Call, x: Any) -> Any:
        import jax.numpy as jnp

        return getattr(jnp, name)(x)

    return lower


_register_unary()


@lowers("Reciprocal", since=6)
def reciprocal(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return (1 / jnp.asarray(x)).astype(x.dtype)


@lowers("Erf", since=9)
def erf(call: Call, x: Any) -> Any:
    import jax

    return jax.scipy.special.erf(x)


@lowers("Identity", since=1, takes_quantized=True)
def identity(call: Call, x: Any) -> Any:
    return x


@lowers("Dropout", since=7)
def dropout_inference(call: Call, x: Any) -> Any:
    return _dropout(call, x)


@lowers("Dropout", since=12, host=(2,))
def dropout(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    """Return the input: at inference dropout does nothing. Training mode with a ratio is refused."""
    from targets.xla.lowering.values import Unsupported

    if training is not None and bool(training) and not (isinstance(ratio, np.ndarray) and float(ratio) == 0.0):
        raise Unsupported("dropout in training mode draws random numbers")
    return _dropout(call, x)


def _dropout(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return (x, jnp.ones(x.shape, dtype=bool)) if call.wants(1) else x


@lowers("Add", since=7)
def add(call: Call, a: Any, b: Any) -> Any:
    import jax.numpy as jnp

    return jnp.add(a, b)


@lowers("Sub", since=7)
def sub(call: Call, a: Any, b: Any) -> Any:
    import jax.numpy as jnp

    return jnp.subtract(a, b)


@lowers("Mul", since=7)
def mul(call: Call, a: Any, b: Any) -> Any:
    import jax.numpy as jnp

    return jnp.multiply(a, b)


@lowers("Div", since=7)
def div(call: Call, a: Any, b: Any) -> Any:
    """Return a / b; integers are divided toward zero, as in C."""
    import jax.numpy as jnp
    from jax import lax

    a, b = jnp.broadcast_arrays(jnp.asarray(a), jnp.asarray(b))
    return lax.div(a, b)


@lowers("Mod", since=10)
def mod(call: Call, a: Any, b: Any) -> Any:
    """Return the remainder: of the divisor's sign, or with fmod=1 of the dividend's."""
    import jax.numpy as jnp

    return jnp.fmod(a, b) if call.integer("fmod") else jnp.mod(a, b)


@lowers("Pow", since=7)
def power(call: Call, a: Any, b: Any) -> Any:
    """Return a ** b in the type of a; a whole-number constant exponent up to 8 becomes multiplications."""
    import jax.numpy as jnp

    a = jnp.asarray(a)
    if isinstance(b, np.ndarray | np.generic) and b.size == 1 and float(b.reshape(())) in range(9):
        shape = np.broadcast_shapes(b.shape, (1,) * a.ndim) if b.ndim > a.ndim else None
        raised = jnp.power(a, int(b.reshape(()))).astype(a.dtype)
        return raised if shape is None else raised.reshape(shape[: b.ndim - a.ndim] + a.shape)
    if jnp.issubdtype(a.dtype, jnp.integer) and jnp.issubdtype(jnp.asarray(b).dtype, jnp.floating):
        return jnp.power(a.astype(b.dtype), b).astype(a.dtype)
    return jnp.power(a, jnp.asarray(b).astype(a.dtype)).astype(a.dtype)


@lowers("Min", since=6)
def minimum(call: Call, *values: Any) -> Any:
    import functools

    import jax.numpy as jnp

    return functools.reduce(jnp.minimum, values)


@lowers("Max", since=6)
def maximum(call: Call, *values: Any) -> Any:
    import functools

    import jax.numpy as jnp

    return functools.reduce(jnp.maximum, values)


@lowers("Sum", since=6)
def sum_of(call: Call, *values: Any) -> Any:
    import functools

    import jax.numpy as jnp

    return functools.reduce(jnp.add, values)


@lowers("Mean", since=6)
def mean_of(call: Call, *values: Any) -> Any:
    return sum_of(call, *values) / len(values)


@lowers("Clip", since=6)
def clip_by_attributes(call: Call, x: Any) -> Any:
    return _clip(x, call.number("min") if call.has("min") else None, call.number("max") if call.has("max") else None)


@lowers("Clip", since=11)
def clip(call: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    return _clip(x, low, high)


def _clip(x: Any, low: Any, high: Any) -> Any:
    import jax.numpy as jnp

    x = jnp.asarray(x)
    if low is not None:
        x = jnp.maximum(x, jnp.asarray(low, dtype=x.dtype).reshape(()))
    if high is not None:
        x = jnp.minimum(x, jnp.asarray(high, dtype=x.dtype).reshape(()))
    return x
