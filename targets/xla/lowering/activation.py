"""Activation functions."""

from __future__ import annotations

from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers


@lowers("Relu", since=6)
def relu(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    x = jnp.asarray(x)
    return jnp.maximum(x, jnp.zeros((), x.dtype))


@lowers("Sigmoid", since=6)
def sigmoid(call: Call, x: Any) -> Any:
    import jax

    return jax.nn.sigmoid(x)


@lowers("Softplus", since=1)
def softplus(call: Call, x: Any) -> Any:
    import jax

    return jax.nn.softplus(x)


@lowers("Softsign", since=1)
def softsign(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return x / (1 + jnp.abs(x))


@lowers("LeakyRelu", since=6)
def leaky_relu(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(x < 0, x * call.number("alpha", 0.01), x)


@lowers("PRelu", since=7)
def parametric_relu(call: Call, x: Any, slope: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(x < 0, x * slope, x)


@lowers("Elu", since=6)
def elu(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(x < 0, call.number("alpha", 1.0) * jnp.expm1(jnp.minimum(x, 0)), x)


@lowers("Celu", since=12)
def celu(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    alpha = call.number("alpha", 1.0)
    return jnp.maximum(x, 0) + alpha * jnp.expm1(jnp.minimum(x, 0) / alpha)


@lowers("Selu", since=6)
def selu(call: Call, x: Any) -> Any:
    """Return the scaled exponential unit; the defaults are the operator's own float32 constants."""
    import jax.numpy as jnp

    alpha = call.number("alpha", 1.67326319217681884765625)
    gamma = call.number("gamma", 1.05070102214813232421875)
    return gamma * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


@lowers("HardSigmoid", since=6)
def hard_sigmoid(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.clip(x * call.number("alpha", 0.2) + call.number("beta", 0.5), 0, 1)


@lowers("HardSwish", since=14)
def hard_swish(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return x * jnp.clip(x * (1 / 6) + 0.5, 0, 1)


@lowers("Mish", since=18)
def mish(call: Call, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return x * jnp.tanh(jax.nn.softplus(x))


@lowers("Swish", since=24)
def swish(call: Call, x: Any) -> Any:
    import jax

    return x * jax.nn.sigmoid(call.number("alpha", 1.0) * x)


@lowers("SwiGLU", since=28)
def gated_swish(call: Call, gate: Any, linear: Any) -> Any:
    return swish(call, gate) * linear


@lowers("ThresholdedRelu", since=10)
def thresholded_relu(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.where(x > call.number("alpha", 1.0), x, 0)


@lowers("Shrink", since=9)
def shrink(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    limit, bias = call.number("lambd", 0.5), call.number("bias")
    moved = jnp.where(x < -limit, x + bias, jnp.where(x > limit, x - bias, 0))
    return moved.astype(x.dtype)


@lowers("Gelu", since=20)
def gelu(call: Call, x: Any) -> Any:
    import jax

    return jax.nn.gelu(x, approximate=call.text("approximate", "none") == "tanh")


@lowers("Gelu", since=1, domain="com.microsoft")
def gelu_exact(call: Call, x: Any) -> Any:
    import jax

    return jax.nn.gelu(x, approximate=False)


@lowers("QuickGelu", since=1, domain="com.microsoft")
def gelu_quick(call: Call, x: Any) -> Any:
    import jax

    return x * jax.nn.sigmoid(call.number("alpha", 1.702) * x)
