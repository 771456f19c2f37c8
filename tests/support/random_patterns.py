"""The patterns that passes look for, drawn with variations: some legal to fuse, some that must be refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.support.random_graphs import BOOL, FLOAT, FLOATS, INT64, Builder, Value


def _width(value: Value) -> int:
    last = value.shape[-1]
    assert isinstance(last, int)
    return last


def _wide(b: Builder, rank: int = 1) -> Value | None:
    return b.pick(lambda v: v.dtype in FLOATS and v.rank >= rank and isinstance(v.shape[-1], int) and v.shape[-1] > 1)


def _keep(b: Builder) -> bool:
    """Return whether an inner value may be read by others too: a shared value must stop a fusion."""
    return b.flip(0.06)


def _number(b: Builder, content: float, value: Value) -> Value:
    shape = [1] * b.random.choice((0, 0, 0, 1, 1, value.rank + (1 if b.flip(0.1) else 0)))
    return (
        b.constant(np.full(shape, content), value.dtype)
        if len(shape) <= value.rank
        else b.constant(content, value.dtype)
    )


def _op(b: Builder, op: str, *inputs: Any, like: Value, keep: bool | None = None, **attributes: Any) -> Value:
    operands = list(inputs)
    if op in ("Add", "Mul") and b.flip(0.4):
        operands.reverse()
    return b.add(op, operands, like.shape, like.dtype, keep=_keep(b) if keep is None else keep, **attributes)


def _mean(b: Builder, x: Value, axis: int) -> Value:
    shape = tuple(1 if i == axis % x.rank else dim for i, dim in enumerate(x.shape))
    if b.opset >= 18:
        return b.add("ReduceMean", [x, b.integers(axis)], shape, keep=_keep(b), keepdims=1)
    return b.add("ReduceMean", [x], shape, keep=_keep(b), axes=[axis], keepdims=1)


def gelu_erf(b: Builder) -> None:
    x = _wide(b)
    if x is None:
        return
    root = b.random.choice((math.sqrt(0.5), math.sqrt(0.5), 0.7071, 0.7))
    if b.flip():
        a = _op(b, "Mul", x, _number(b, root, x), like=x)
    else:
        a = b.add("Div", [x, _number(b, 1 / root, x)], x.shape, keep=_keep(b))
    e = _op(b, "Erf", a, like=x)
    p = _op(b, "Add", e, _number(b, b.random.choice((1.0, 1.0, 1.0, 0.9)), x), like=x)
    half = _number(b, b.random.choice((0.5, 0.5, 0.5, 1.0)), x)
    if b.flip():
        _op(b, "Mul", _op(b, "Mul", x, p, like=x), half, like=x, keep=True)
    else:
        _op(b, "Mul", _op(b, "Mul", x, half, like=x), p, like=x, keep=True)


def gelu_tanh(b: Builder) -> None:
    x = _wide(b)
    if x is None:
        return
    if b.flip():
        cube = b.add("Pow", [x, _number(b, 3.0, x)], x.shape, keep=_keep(b))
    else:
        cube = _op(b, "Mul", _op(b, "Mul", x, x, like=x), x, like=x)
    inner = _op(
        b, "Add", x, _op(b, "Mul", cube, _number(b, b.random.choice((0.044715, 0.044715, 0.05)), x), like=x), like=x
    )
    scaled = _op(b, "Mul", inner, _number(b, math.sqrt(2 / math.pi), x), like=x)
    p = _op(b, "Add", _op(b, "Tanh", scaled, like=x), _number(b, 1.0, x), like=x)
    _op(b, "Mul", _op(b, "Mul", x, _number(b, 0.5, x), like=x), p, like=x, keep=True)


def swish(b: Builder) -> None:
    x = _wide(b)
    if x is None:
        return
    kind = b.random.randint(0, 3)
    if kind == 0:
        scaled = _op(b, "Mul", x, _number(b, b.random.choice((1.0, 1.702)), x), like=x) if b.flip(0.3) else x
        _op(b, "Mul", x, _op(b, "Sigmoid", scaled, like=x), like=x, keep=True)
    elif kind == 1:
        attributes = {"alpha": b.random.choice((1 / 6, 1 / 6, 0.2)), "beta": 0.5}
        _op(b, "Mul", x, b.add("HardSigmoid", [x], x.shape, keep=_keep(b), **attributes), like=x, keep=True)
    elif kind == 2:
        moved = _op(b, "Add", x, _number(b, 3.0, x), like=x)
        bounds = [b.constant(0.0, x.dtype), b.constant(b.random.choice((6.0, 6.0, 5.0)), x.dtype)]
        clipped = b.add("Clip", [moved, *bounds], x.shape, keep=_keep(b))
        product = _op(b, "Mul", x, clipped, like=x)
        b.add("Div", [product, _number(b, 6.0, x)], x.shape)
    else:
        soft = _op(b, "Softplus", x, like=x)
        _op(b, "Mul", x, _op(b, "Tanh", soft, like=x), like=x, keep=True)


def layer_norm(b: Builder) -> None:
    x = _wide(b, 2)
    if x is None:
        return
    axis = b.random.choice((-1, -1, -1, x.rank - 1, -2))
    if not isinstance(x.shape[axis], int) and b.flip(0.7):
        axis = -1
    m = _mean(b, x, axis)
    d = b.add("Sub", [x, m] if b.flip(0.95) else [m, x], x.shape, keep=_keep(b))
    two = _number(b, b.random.choice((2.0, 2.0, 2.0, 4.0)), x)
    q = b.add("Pow", [d, two], x.shape, keep=_keep(b)) if b.flip() else _op(b, "Mul", d, d, like=x)
    v = _mean(b, q, axis if b.flip(0.95) else -1)
    e = _op(b, "Add", v, b.constant(b.random.choice((1e-5, 1e-12, 1e-3)), x.dtype), like=v)
    r = _op(b, "Sqrt", e, like=v)
    if b.flip(0.8):
        n = b.add("Div", [d, r], x.shape, keep=_keep(b) or b.flip(0.2))
    else:
        n = _op(b, "Mul", d, b.add("Reciprocal", [r], r.shape, keep=False), like=x)
    _affine(b, x, n)


def _affine(b: Builder, x: Value, n: Value) -> None:
    width = _width(x)
    shapes = ((width,), (width,), (width,), (1, width), (), (1,))
    if b.flip(0.8):
        n = _op(b, "Mul", n, b.weight(x.dtype, *b.random.choice(shapes)), like=x, keep=True)
    if b.flip(0.8):
        _op(b, "Add", n, b.weight(x.dtype, *b.random.choice(shapes)), like=x, keep=True)
    elif b.flip():
        b.pool.append(n)


def rms_norm(b: Builder) -> None:
    x = _wide(b, 2)
    if x is None:
        return
    axis = b.random.choice((-1, -1, -1, x.rank - 1, -2))
    q = b.add("Pow", [x, _number(b, 2.0, x)], x.shape, keep=_keep(b)) if b.flip() else _op(b, "Mul", x, x, like=x)
    v = _mean(b, q, axis)
    e = _op(b, "Add", v, b.constant(b.random.choice((1e-6, 1e-5)), x.dtype), like=v)
    r = _op(b, "Sqrt", e, like=v)
    if b.flip():
        n = b.add("Div", [x, r], x.shape, keep=_keep(b) or b.flip(0.3))
    else:
        one = b.constant(1.0, x.dtype)
        inverse = (
            b.add("Div", [one, r], r.shape, keep=False) if b.flip() else b.add("Reciprocal", [r], r.shape, keep=False)
        )
        n = _op(b, "Mul", x, inverse, like=x, keep=_keep(b) or b.flip(0.3))
    if b.flip(0.9):
        _affine(b, x, n)


def softmax(b: Builder) -> None:
    x = _wide(b, 1)
    if x is None:
        return
    axis = b.random.choice((-1, x.rank - 1, 0))
    shape = tuple(1 if i == axis % x.rank else dim for i, dim in enumerate(x.shape))

    def reduced(op: str, value: Value) -> Value:
        if op == "ReduceSum" or b.opset >= 18:
            return b.add(op, [value, b.integers(axis)], shape, keep=_keep(b), keepdims=1)
        return b.add(op, [value], shape, keep=_keep(b), axes=[axis], keepdims=1)

    top = reduced("ReduceMax", x)
    e = b.add("Exp", [b.add("Sub", [x, top], x.shape, keep=_keep(b))], x.shape, keep=_keep(b))
    b.add("Div", [e, reduced("ReduceSum", e)], x.shape)


def _heads(b: Builder, x: Value, count: int, size: int) -> Value:
    if b.flip(0.3):
        shape = b.add("Shape", [x], (3,), INT64, keep=False, exact=True)
        firsts = b.add("Slice", [shape, b.integers(0), b.integers(2)], (2,), INT64, keep=False, exact=True)
        target = b.add("Concat", [firsts, b.integers(count, size)], (4,), INT64, keep=False, axis=0, exact=True)
    else:
        target = b.integers(0, 0, count, size if b.flip() else -1)
    split = b.add("Reshape", [x, target], (*x.shape[:2], count, size), keep=_keep(b))
    order = (x.shape[0], count, x.shape[1], size)
    return b.add("Transpose", [split], order, keep=_keep(b), perm=[0, 2, 1, 3])


def attention(b: Builder) -> None:
    """Projections, heads, maybe rotary and a mask, softmax, values; with slips now and then."""
    x = b.pick(
        lambda v: v.dtype == FLOAT and v.rank == 3 and isinstance(v.shape[2], int) and isinstance(v.shape[1], str)
    )
    if x is None:
        return
    heads, size = 2, b.random.choice((2, 4))
    width = heads * size
    shared = heads if b.flip(0.8) else 1
    projected = []
    for count in (heads, shared, shared):
        y = b.add("MatMul", [x, b.weight(FLOAT, _width(x), count * size)], (*x.shape[:2], count * size), keep=_keep(b))
        if b.flip(0.6):
            y = _op(b, "Add", y, b.weight(FLOAT, count * size), like=y)
        projected.append(_heads(b, y, count, size))
    q, k, v = projected
    if b.flip(0.3):
        q, k = rotary(b, q), rotary(b, k)
    if shared != heads:
        k, v = (_repeated(b, value, heads) for value in (k, v))
    length = x.shape[1]
    kt = b.add("Transpose", [k], (k.shape[0], heads, size, length), keep=_keep(b), perm=[0, 1, 3, 2])
    scale = b.random.choice((1 / math.sqrt(size), 1 / math.sqrt(size), 0.3))
    if b.flip(0.3):
        q = _op(b, "Mul", q, b.constant(scale, FLOAT), like=q)
    s = b.add("MatMul", [q, kt], (q.shape[0], heads, length, length), keep=_keep(b))
    if b.flip(0.6):
        s = _op(b, "Mul", s, b.constant(scale, FLOAT), like=s)
    elif b.flip():
        s = b.add("Div", [s, b.constant(1 / scale, FLOAT)], s.shape, keep=_keep(b))
    s = _masked(b, s, x)
    axis = b.random.choice((-1, -1, -1, 3, 2))
    p = b.add("Softmax", [s], s.shape, keep=_keep(b), axis=axis)
    o = b.add("MatMul", [p, v], (q.shape[0], heads, length, size), keep=_keep(b))
    o = b.add("Transpose", [o], (x.shape[0], length, heads, size), keep=_keep(b), perm=[0, 2, 1, 3])
    o = b.add("Reshape", [o, b.integers(0, 0, width if b.flip() else -1)], (*x.shape[:2], width), keep=True)
    if b.flip() and width == _width(x):
        b.add("Add", [o, x], o.shape)


def _masked(b: Builder, s: Value, x: Value) -> Value:
    low = b.random.choice((-np.inf, -1e9, float(np.finfo(np.float32).min)))
    length = s.shape[-1]
    kind = b.random.randint(0, 3)
    if kind == 0:
        flags = b.pick(lambda v: v.name == "flags" and v.shape == x.shape[:2])
        if flags is None:
            return s
        row = b.add("Unsqueeze", [flags, b.integers(1, 2)], (x.shape[0], 1, 1, length), BOOL, keep=False)
        low = low if np.isfinite(low) else -1e9
        bias = b.add("Where", [row, b.constant(0.0, FLOAT), b.constant(low, FLOAT)], row.shape, FLOAT, keep=_keep(b))
        return _op(b, "Add", s, bias, like=s)
    if kind == 1:
        whole = b.add("Shape", [x], (3,), INT64, keep=False, exact=True)
        n = b.add("Gather", [whole, b.constant(1, INT64)], (), INT64, keep=False, axis=0, exact=True)
        step = b.add("Range", [b.constant(0, INT64), n, b.constant(1, INT64)], (length,), INT64, keep=False, exact=True)
        row = b.add("Unsqueeze", [step, b.integers(0)], (1, length), INT64, keep=False)
        column = b.add("Unsqueeze", [step, b.integers(1)], (length, 1), INT64, keep=False)
        op = b.random.choice(("LessOrEqual", "LessOrEqual", "GreaterOrEqual"))
        seen = b.add(op, [row, column], (length, length), BOOL, keep=False)
        if b.flip():
            return b.add("Where", [seen, s, b.constant(low, FLOAT)], s.shape, FLOAT, keep=_keep(b))
        bias = b.add("Where", [seen, b.constant(0.0, FLOAT), b.constant(low, FLOAT)], seen.shape, FLOAT, keep=_keep(b))
        return _op(b, "Add", s, bias, like=s)
    return s


def _repeated(b: Builder, value: Value, heads: int) -> Value:
    n, _, length, size = value.shape
    five = b.add("Unsqueeze", [value, b.integers(2)], (n, 1, 1, length, size), keep=_keep(b))
    target = b.integers(1, 1, heads, 1, 1)
    wide = b.add("Expand", [five, target], (n, 1, heads, length, size), keep=_keep(b))
    return b.add("Reshape", [wide, b.integers(0, heads, -1, int(size))], (n, heads, length, size), keep=_keep(b))


def rotary(b: Builder, x: Value) -> Value:
    """Return the rotated halves of `x` [N, H, S, D], positions along S; sometimes the wrong half is negated."""
    size = _width(x)
    half = size // 2
    if half < 1 or size % 2:
        return x
    whole = b.add("Shape", [x], (4,), INT64, keep=False, exact=True)
    n = b.add("Gather", [whole, b.constant(2, INT64)], (), INT64, keep=False, axis=0, exact=True)
    step = b.add("Range", [b.constant(0, INT64), n, b.constant(1, INT64)], (x.shape[2],), INT64, keep=False, exact=True)
    moving = b.add("Cast", [step], step.shape, FLOAT, keep=False, to=FLOAT)
    column = b.add("Unsqueeze", [moving, b.integers(1)], (x.shape[2], 1), keep=False)
    angles = b.add("Mul", [column, b.weight(FLOAT, 1, half)], (x.shape[2], half), FLOAT, keep=False)
    both = b.add("Concat", [angles, angles], (x.shape[2], size), keep=False, axis=-1)
    four = b.add("Unsqueeze", [both, b.integers(0, 1)], (1, 1, x.shape[2], size), keep=False)
    cos, sin = (b.add(op, [four], four.shape, keep=_keep(b)) for op in ("Cos", "Sin"))
    cuts = [(0, half), (half, 2**62)]
    first, second = (
        b.add("Slice", [x, b.integers(a), b.integers(z), b.integers(3)], (*x.shape[:3], half), keep=_keep(b))
        for a, z in cuts
    )
    if b.flip(0.9):
        pair = [b.add("Neg", [second], second.shape, keep=_keep(b)), first]
    else:
        pair = [second, b.add("Neg", [first], first.shape, keep=False)]
    turned = b.add("Concat", list(pair), x.shape, keep=_keep(b), axis=-1)
    return _op(b, "Add", _op(b, "Mul", x, cos, like=x), _op(b, "Mul", turned, sin, like=x), like=x)


def gated(b: Builder) -> None:
    """SwiGLU: two projections of one tensor, one through Swish, multiplied."""
    x = b.pick(lambda v: v.dtype == FLOAT and v.rank in (2, 3) and isinstance(v.shape[-1], int))
    if x is None:
        return
    width = b.random.choice((4, 6))
    gate, up = (
        b.add("MatMul", [x, b.weight(FLOAT, _width(x), width)], (*x.shape[:-1], width), keep=_keep(b)) for _ in range(2)
    )
    if b.flip(0.3):
        up = _op(b, "Add", up, b.weight(FLOAT, width), like=up)
    active = _op(b, "Mul", gate, _op(b, "Sigmoid", gate, like=gate), like=gate)
    y = _op(b, "Mul", active, up, like=gate, keep=True)
    if b.flip():
        b.add("MatMul", [y, b.weight(FLOAT, width, _width(x))], x.shape)


def group_norm(b: Builder) -> None:
    """GroupNorm as exporters write it: Reshape, InstanceNormalization, Reshape back, scale and shift."""
    x = b.pick(lambda v: v.dtype == FLOAT and v.rank == 4 and all(isinstance(d, int) for d in v.shape[1:]))
    if x is None or int(x.shape[1]) % 2:
        return
    channels, area = int(x.shape[1]), int(x.shape[2]) * int(x.shape[3])
    if area < 4:
        return
    grouped = b.add("Reshape", [x, b.integers(0, 2, -1)], (x.shape[0], 2, channels // 2 * area), keep=_keep(b))
    scale = b.constant([1.0, 1.0] if b.flip(0.8) else [1.0, 0.5], FLOAT)
    zero = b.constant([0.0, 0.0] if b.flip(0.8) else [0.0, 0.5], FLOAT)
    n = b.add("InstanceNormalization", [grouped, scale, zero], grouped.shape, keep=_keep(b), epsilon=1e-5)
    shape = (
        b.add("Shape", [x], (4,), INT64, keep=False, exact=True)
        if b.flip()
        else b.integers(0, channels, *map(int, x.shape[2:]))
    )
    y = b.add("Reshape", [n, shape], x.shape, keep=_keep(b))
    y = _op(b, "Mul", y, b.weight(FLOAT, channels, 1, 1), like=x)
    _op(b, "Add", y, b.weight(FLOAT, channels, 1, 1), like=x, keep=True)


def sums(b: Builder) -> None:
    """A chain of residual additions."""
    x = _wide(b, 2)
    if x is None:
        return
    total = b.add("MatMul", [x, b.weight(x.dtype, _width(x), _width(x))], x.shape, keep=_keep(b))
    for _ in range(b.random.randint(1, 3)):
        other = (
            b.pick(lambda v: v.dtype == x.dtype and v.shape == x.shape) if b.flip() else b.weight(x.dtype, _width(x))
        )
        assert other is not None
        total = _op(b, "Add", total, other, like=x)
    b.pool.append(total)


PATTERNS = (gelu_erf, gelu_tanh, swish, layer_norm, rms_norm, softmax, attention, attention, gated, group_norm, sums)
