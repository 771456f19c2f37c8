"""Comparison, boolean and bitwise operators, and choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers

_BINARY: tuple[tuple[str, int, str], ...] = (
    ("Equal", 7, "equal"),
    ("Greater", 7, "greater"),
    ("GreaterOrEqual", 12, "greater_equal"),
    ("Less", 7, "less"),
    ("LessOrEqual", 12, "less_equal"),
    ("And", 7, "logical_and"),
    ("Or", 7, "logical_or"),
    ("Xor", 7, "logical_xor"),
    ("BitwiseAnd", 18, "bitwise_and"),
    ("BitwiseOr", 18, "bitwise_or"),
    ("BitwiseXor", 18, "bitwise_xor"),
)


def _jnp_binary(name: str) -> Callable[[Call, Any, Any], Any]:
    def lower(call: Call, a: Any, b: Any) -> Any:
        import jax.numpy as jnp

        return getattr(jnp, name)(a, b)

    return lower


for _op_type, _since, _name in _BINARY:
    lowers(_op_type, since=_since)(_jnp_binary(_name))


@lowers("Not", since=1)
def logical_not(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.logical_not(x)


@lowers("BitwiseNot", since=18)
def bitwise_not(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.bitwise_not(x)


@lowers("BitShift", since=11)
def bit_shift(call: Call, x: Any, amount: Any) -> Any:
    """Return x shifted, to the right with its sign; an amount below 0 or beyond the width shifts all out."""
    import jax.numpy as jnp
    from jax import lax

    x, amount = jnp.broadcast_arrays(jnp.asarray(x), jnp.asarray(amount))
    # XLA shifts everything out for amounts beyond the width, read as unsigned: negative ones are such.
    if call.text("direction") == "LEFT":
        return lax.shift_left(x, amount)
    is_signed = jnp.issubdtype(x.dtype, jnp.signedinteger)
    return lax.shift_right_arithmetic(x, amount) if is_signed else lax.shift_right_logical(x, amount)


@lowers("Where", since=9)
def where(call: Call, condition: Any, a: Any, b: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(condition, a, b)


@lowers("IsNaN", since=9)
def is_nan(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.isnan(x)


@lowers("IsInf", since=10)
def is_inf(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    positive, negative = bool(call.integer("detect_positive", 1)), bool(call.integer("detect_negative", 1))
    found = jnp.zeros(jnp.shape(x), dtype=bool)
    if positive:
        found = found | jnp.isposinf(x)
    if negative:
        found = found | jnp.isneginf(x)
    return found
