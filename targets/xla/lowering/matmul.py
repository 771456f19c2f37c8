"""Matrix products. Quantized operands are multiplied as int8 with int32 accumulation."""

from __future__ import annotations

from typing import Any

from passes.base import node_label
from targets.xla.lowering.call import Call
from targets.xla.lowering.integer import integer_matmul
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Dequantized, on_device


@lowers("MatMul", since=1, takes_quantized=True)
def matmul(call: Call, a: Any, b: Any) -> Any:
    import jax.numpy as jnp

    if isinstance(a, Dequantized) and isinstance(b, Dequantized):
        exact = integer_matmul(a, b)
        if exact is not None:
            call.note_int8(node_label(call.node))
            return exact
    return jnp.matmul(on_device(a), on_device(b))


@lowers("Gemm", since=7, takes_quantized=True)
def gemm(call: Call, a: Any, b: Any, c: Any = None) -> Any:
    """Return alpha * A' B' + beta * C, where ' is transposition if asked for."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    a = _transposed(a) if call.integer("transA") else a
    b = _transposed(b) if call.integer("transB") else b
    product = matmul(call, a, b)
    if alpha != 1.0:
        product = (product * alpha).astype(product.dtype)
    if c is None:
        return product
    bias = on_device(c)
    return product + (bias if beta == 1.0 else (bias * beta).astype(product.dtype))


def _transposed(x: Any) -> Any:
    import jax.numpy as jnp

    if isinstance(x, Dequantized):
        return Dequantized(jnp.transpose(x.quantized), x.scale, x.zero_point, 1 - x.axis % 2, x.float_type)
    return jnp.transpose(x)


@lowers("Einsum", since=12)
def einsum(call: Call, *operands: Any) -> Any:
    import jax.numpy as jnp

    return jnp.einsum(call.text("equation").replace(" ", ""), *operands)


@lowers("Det", since=11)
def determinant(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.linalg.det(x)


@lowers("FusedMatMul", since=1, domain="com.microsoft")
def fused_matmul(call: Call, a: Any, b: Any) -> Any:
    import jax.numpy as jnp

    a = jnp.swapaxes(a, -1, -2) if call.integer("transA") else a
    b = jnp.swapaxes(b, -1, -2) if call.integer("transB") else b
    product = jnp.matmul(a, b)
    return (product * call.number("alpha", 1.0)).astype(product.dtype)
