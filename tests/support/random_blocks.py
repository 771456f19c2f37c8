"""What random graphs are made of: single operators, movement, shape arithmetic, layers, control flow and functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, helper

from tests.support.random_graphs import BOOL, DOUBLE, FLOAT, FLOATS, HALF, INT32, INT64, Builder, Dim, Shape, Value
from tests.support.random_patterns import PATTERNS

_UNARY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Relu", {}),
    ("Neg", {}),
    ("Abs", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Erf", {}),
    ("Softplus", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("Identity", {}),
)
_EXACT = ("Relu", "Neg", "Abs", "Identity")


def is_float(value: Value) -> bool:
    return value.dtype in FLOATS


def is_fixed(dims: Shape) -> bool:
    return all(isinstance(dim, int) for dim in dims)


def unary(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        op, attributes = b.random.choice(_UNARY)
        b.add(op, [x], x.shape, exact=x.is_exact and op in _EXACT, **attributes)


def operand(b: Builder, x: Value) -> Value:
    """Return a constant that broadcasts with `x`: a number of some rank, part of its shape, or all of it."""
    number = b.random.choice((0.0, 1.0, 1.0, -1.0, 2.0, 0.5, 1e-5, 3.0))
    if x.dtype in (INT64, INT32):
        number = float(int(number))
    kind = b.random.randint(0, 4)
    if kind <= 1 or not x.shape or not is_fixed(x.shape[-1:]):
        return b.constant(np.full([1] * b.random.choice((0, 0, 1, 1, x.rank, x.rank + 1)), number), x.dtype)
    count = b.random.randint(1, x.rank)
    dims = [dim if isinstance(dim, int) and b.flip(0.7) else 1 for dim in x.shape[-count:]]
    if kind == 2:
        return b.constant(np.full(dims, number), x.dtype)
    if x.dtype in (INT64, INT32):
        return b.constant(np.full(dims, int(number)), x.dtype)
    return b.weight(x.dtype, *dims, scale=1.0)


def _broadcast(x: Value, y: Value) -> Shape | None:
    rank = max(x.rank, y.rank)
    first, second = (1,) * (rank - x.rank) + x.shape, (1,) * (rank - y.rank) + y.shape
    dims: list[Dim] = []
    for a, c in zip(first, second, strict=True):
        if a != c and 1 not in (a, c):
            return None
        dims.append(c if a == 1 else a)
    return tuple(dims)


def binary(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype != BOOL)
    if x is None:
        return
    y = b.pick(lambda v: v.dtype == x.dtype and _broadcast(x, v) is not None) if b.flip() else None
    y = y or operand(b, x)
    shape = _broadcast(x, y)
    assert shape is not None
    op = b.random.choice(("Add", "Mul", "Sub", "Add", "Mul", "Max", "Min"))
    x, y = (y, x) if b.flip(0.3) else (x, y)
    b.add(op, [x, y], shape, x.dtype, exact=x.is_exact and y.is_exact and op in ("Max", "Min"))


def divide(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        y = b.constant(np.full([1] * b.random.randint(0, x.rank + 1), b.random.choice((1.0, 2.0, 0.3, -4.0))), x.dtype)
        shape = _broadcast(x, y)
        assert shape is not None
        b.add("Div", [x, y], shape)


def power(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        p = b.constant(b.random.choice((1.0, 2.0, 2.0, 3.0, 0.5)), b.random.choice((x.dtype, x.dtype, FLOAT)))
        base = b.add("Abs", [x], x.shape, keep=False)
        b.add("Pow", [base, p], x.shape)


def compare(b: Builder) -> None:
    x = b.pick(lambda v: v.is_exact and v.dtype != BOOL)
    if x is not None:
        y = b.constant(np.full([1] * b.random.choice((0, x.rank)), b.random.choice((0, 1))), x.dtype)
        condition = b.add(b.random.choice(("Greater", "Less", "Equal")), [x, y], x.shape, BOOL, exact=True)
        if b.flip() and is_float(x):
            other = b.pick(lambda v: v.dtype == x.dtype and v.shape == x.shape) or x
            filler = b.constant(b.random.choice((0.0, -np.inf, -1e4, 1.0)), x.dtype)
            pair = [filler, other] if b.flip() else [other, filler]
            b.add("Where", [condition, *pair], x.shape, x.dtype)


def logic(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype == BOOL)
    if x is not None:
        y = b.add("Not", [x], x.shape, exact=True, keep=b.flip())
        if b.flip():
            b.add(b.random.choice(("And", "Or", "Xor")), [x, y], x.shape, exact=True)
        if b.flip():
            b.add("Not", [y], x.shape, exact=True)


def cast(b: Builder) -> None:
    x = b.pick(lambda v: v.is_exact or is_float(v))
    if x is None:
        return
    kinds = [FLOAT, DOUBLE, HALF] if not x.is_exact else [FLOAT, DOUBLE, INT64, INT32, BOOL, HALF]
    middle = b.random.choice(kinds)
    narrow = middle == HALF or (middle == FLOAT and x.dtype == DOUBLE) or (middle == INT32 and x.dtype == INT64)
    y = b.add("Cast", [x], x.shape, middle, to=middle, exact=x.is_exact and not narrow)
    if b.flip():
        b.add("Cast", [y], x.shape, x.dtype, to=x.dtype, exact=False)


def clip(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        low, high = b.constant(0.0, x.dtype), b.constant(b.random.choice((6.0, 1.0)), x.dtype)
        pair = b.random.choice(([low, high], [low], [None, high]))
        y = b.add("Clip", [x, *pair], x.shape, keep=b.flip())
        if b.flip():
            b.add(b.random.choice(("Clip", "Relu")), [y], x.shape)


def transpose(b: Builder) -> None:
    x = b.pick(lambda v: v.rank >= 2)
    if x is None:
        return
    order = list(range(x.rank))
    b.random.shuffle(order)
    y = b.add("Transpose", [x], tuple(x.shape[i] for i in order), perm=order, exact=x.is_exact)
    if b.flip():
        z = b.add("Relu", [y], y.shape, keep=b.flip()) if is_float(y) and b.flip() else y
        back = [order.index(i) for i in range(x.rank)]
        if b.flip(0.3):
            b.random.shuffle(back)
        b.add("Transpose", [z], tuple(z.shape[i] for i in back), perm=back)


def squeeze(b: Builder) -> None:
    x = b.pick(lambda v: v.rank <= 4)
    if x is None:
        return
    axis = b.random.randint(0, x.rank)
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    axes = b.integers(axis if b.flip() else axis - x.rank - 1)
    y = b.add("Unsqueeze", [x, axes], shape, exact=x.is_exact)
    if b.flip(0.6):
        middle = b.add("Tanh", [y], shape, keep=b.flip()) if is_float(y) and b.flip(0.4) else y
        places = [i for i, dim in enumerate(shape) if dim == 1]
        at = b.random.choice(places)
        b.add("Squeeze", [middle, b.integers(at)], (*shape[:at], *shape[at + 1 :]))


def reshape(b: Builder) -> None:
    x = b.pick(lambda v: v.rank >= 1)
    if x is None:
        return
    kind = b.random.randint(0, 4)
    if kind == 0 and is_fixed(x.shape[1:]) and x.rank > 1:
        tail = int(np.prod(x.shape[1:]))
        b.add("Reshape", [x, b.integers(0, -1) if b.flip() else b.integers(-1, tail)], (x.shape[0], tail))
    elif kind == 1 and isinstance(x.shape[-1], int) and x.shape[-1] % 2 == 0:
        y = b.add(
            "Reshape", [x, b.integers(*[0] * (x.rank - 1), 2, x.shape[-1] // 2)], (*x.shape[:-1], 2, x.shape[-1] // 2)
        )
        if b.flip():
            order = [*range(x.rank - 2), x.rank - 1, x.rank - 2, x.rank] if x.rank > 1 else [1, 0]
            b.add("Transpose", [y], tuple(y.shape[i] for i in order), perm=order)
    elif kind == 2 and x.rank > 1:
        axis = b.random.randint(0, x.rank)
        if is_fixed(x.shape[:axis]) or is_fixed(x.shape[axis:]):
            dims = [_product(x.shape[:axis]), _product(x.shape[axis:])]
            if None not in dims:
                b.add("Flatten", [x], tuple(d for d in dims if d is not None), axis=axis)
    else:
        flat = b.add("Reshape", [x, b.integers(-1)], (f"{x.name}_flat",), keep=False)
        shape = b.add("Shape", [x], (x.rank,), INT64, keep=False, exact=True)
        if b.flip(0.3) and is_float(x):
            flat = b.add("Neg", [flat], flat.shape, keep=False)
        b.add("Reshape", [flat, shape], x.shape)


def _product(dims: Shape) -> Dim | None:
    symbols = [dim for dim in dims if isinstance(dim, str)]
    rest = int(np.prod([dim for dim in dims if isinstance(dim, int)]))
    if not symbols:
        return rest
    return symbols[0] if len(symbols) == 1 and rest == 1 else None


def cut(b: Builder) -> None:
    x = b.pick(lambda v: v.rank >= 1 and any(isinstance(dim, int) and dim >= 2 for dim in v.shape))
    if x is None:
        return
    axis = b.random.choice([i for i, dim in enumerate(x.shape) if isinstance(dim, int) and dim >= 2])
    length = x.shape[axis]
    assert isinstance(length, int)

    def with_length(size: int) -> Shape:
        return (*x.shape[:axis], size, *x.shape[axis + 1 :])

    kind = b.random.randint(0, 4)
    if kind == 0:
        start, end = sorted(b.random.sample(range(length + 1), 2))
        bounds = [(start, end), (start - length, 2**31 if end == length else end), (0, 2**63 - 1), (0, length)]
        first, last = b.random.choice(bounds)
        size = len(range(length)[slice(first, last)])
        if size:
            b.add("Slice", [x, b.integers(first), b.integers(last), b.integers(axis - (x.rank if b.flip() else 0))],
                  with_length(size), exact=x.is_exact)  # fmt: skip
    elif kind == 1:
        b.add("Slice", [x, b.integers(-1), b.integers(-(2**62)), b.integers(axis), b.integers(-1)], x.shape)
    elif kind == 2 and length % 2 == 0:
        sizes = b.integers(length // 2, length // 2)
        parts = b.add_many("Split", [x, sizes], [(with_length(length // 2), x.dtype)] * 2, axis=axis)
        if b.flip():
            order = parts if b.flip(0.7) else parts[::-1]
            b.add("Concat", list(order), x.shape, axis=axis - (x.rank if b.flip() else 0))
    elif kind == 3:
        index = b.random.randint(-length, length - 1)
        b.add("Gather", [x, b.constant(index, INT64)], (*x.shape[:axis], *x.shape[axis + 1 :]), axis=axis)
    else:
        picked = [b.random.randint(-length, length - 1) for _ in range(b.random.randint(1, 3))]
        picked = list(range(length)) if b.flip(0.2) else picked
        b.add("Gather", [x, b.integers(*picked)], with_length(len(picked)), axis=axis, exact=x.is_exact)


def join(b: Builder) -> None:
    x = b.pick(lambda v: v.rank >= 1 and isinstance(v.shape[-1], int))
    if x is None:
        return
    y = b.pick(lambda v: v.dtype == x.dtype and v.shape == x.shape) or x
    last = x.shape[-1]
    assert isinstance(last, int)
    if b.flip(0.2):
        b.add("Concat", [x], x.shape, axis=-1)
        return
    z = b.add("Concat", [x, y], (*x.shape[:-1], 2 * last), axis=-1, exact=x.is_exact and y.is_exact)
    if b.flip():
        b.add("Slice", [z, b.integers(last), b.integers(2**40), b.integers(-1)], x.shape)


def pad(b: Builder) -> None:
    x = b.pick(lambda v: is_float(v) and v.rank >= 1 and isinstance(v.shape[-1], int))
    if x is not None:
        amount = b.random.choice((0, 0, 1))
        pads = b.integers(*[0] * (x.rank - 1), amount, *[0] * (x.rank - 1), amount)
        last = x.shape[-1]
        assert isinstance(last, int)
        mode = b.random.choice(("constant", "edge"))
        b.add("Pad", [x, pads], (*x.shape[:-1], last + 2 * amount), mode=mode)


def expand(b: Builder) -> None:
    x = b.pick(lambda v: v.rank >= 1)
    if x is None:
        return
    if b.flip():
        shape = b.add("Shape", [x], (x.rank,), INT64, keep=b.flip(0.2), exact=True)
        source = x if b.flip() else b.constant(1.0 if x.dtype != BOOL else True, x.dtype)
        b.add("Expand", [source, shape], x.shape, x.dtype)
    else:
        dims = [b.random.choice((1, 1, 2)) if dim == 1 else 1 for dim in x.shape]
        shape = tuple(dim if dim != 1 else size for dim, size in zip(x.shape, dims, strict=True))
        b.add("Expand", [x, b.integers(*dims)], shape)


def tile(b: Builder) -> None:
    x = b.pick(lambda v: v.rank >= 1 and isinstance(v.shape[-1], int))
    if x is not None:
        count = b.random.choice((1, 1, 2))
        last = x.shape[-1]
        assert isinstance(last, int)
        b.add("Tile", [x, b.integers(*[1] * (x.rank - 1), count)], (*x.shape[:-1], last * count))


def shape_chain(b: Builder) -> None:
    """Rebuild a shape from its dimensions in the ways that exporters do, then use it."""
    x = b.pick(lambda v: v.rank >= 2 and v.dtype != BOOL)
    if x is None:
        return
    parts = []
    for axis, dim in enumerate(x.shape):
        if isinstance(dim, int) and b.flip():
            parts.append(b.integers(dim))
            continue
        if b.flip(0.3) and b.opset >= 15:
            parts.append(b.add("Shape", [x], (1,), INT64, keep=False, exact=True, start=axis, end=axis + 1))
            continue
        whole = b.add("Shape", [x], (x.rank,), INT64, keep=b.flip(0.1), exact=True)
        number = b.add("Gather", [whole, b.constant(axis, INT64)], (), INT64, keep=b.flip(0.1), axis=0, exact=True)
        if b.flip(0.3):
            two = b.constant(2, INT64)
            number = b.add("Mul", [number, two], (), INT64, keep=False, exact=True)
            number = b.add("Div", [number, two], (), INT64, keep=False, exact=True)
        parts.append(b.add("Unsqueeze", [number, b.integers(0)], (1,), INT64, keep=False, exact=True))
    target = b.add("Concat", list(parts), (x.rank,), INT64, keep=b.flip(0.2), axis=0, exact=True)
    use = b.random.choice(("Reshape", "Expand", "ConstantOfShape"))
    if use == "Reshape":
        b.add("Reshape", [x, target], x.shape)
    elif use == "Expand":
        filler = operand(b, x)
        b.add("Expand", [filler if b.flip() and filler.rank <= x.rank else x, target], x.shape, x.dtype)
    else:
        fill = helper.make_tensor("v", FLOAT, [1], [1.5])
        b.add("ConstantOfShape", [target], x.shape, FLOAT, value=fill)


def counted(b: Builder) -> None:
    """Range over a dimension, as position ids and causal masks are made."""
    x = b.pick(lambda v: v.rank >= 2 and isinstance(v.shape[1], str))
    if x is None:
        return
    whole = b.add("Shape", [x], (x.rank,), INT64, keep=False, exact=True)
    length = b.add("Gather", [whole, b.constant(1, INT64)], (), INT64, keep=False, axis=0, exact=True)
    positions = b.add(
        "Range", [b.constant(0, INT64), length, b.constant(1, INT64)], (x.shape[1],), INT64, exact=True, keep=b.flip()
    )
    if b.flip():
        row = b.add("Unsqueeze", [positions, b.integers(0)], (1, x.shape[1]), INT64, keep=False, exact=True)
        column = b.add("Unsqueeze", [positions, b.integers(1)], (x.shape[1], 1), INT64, keep=False, exact=True)
        op = b.random.choice(("LessOrEqual", "Greater"))
        b.add(op, [row, column], (x.shape[1], x.shape[1]), BOOL, exact=True)


def reduce(b: Builder) -> None:
    x = b.pick(lambda v: is_float(v) and v.rank >= 1)
    if x is None:
        return
    axis = b.random.randint(0, x.rank - 1)
    kept = b.flip()
    shape = (*x.shape[:axis], *((1,) if kept else ()), *x.shape[axis + 1 :])
    op = b.random.choice(("ReduceMean", "ReduceSum", "ReduceMax"))
    at = axis - (x.rank if b.flip() else 0)
    if op == "ReduceSum" or b.opset >= 18:
        b.add(op, [x, b.integers(at)], shape, keepdims=int(kept))
    else:
        b.add(op, [x], shape, axes=[at], keepdims=int(kept))
    if b.flip(0.3):
        b.add("Softmax", [x], x.shape, axis=axis)


def matmul(b: Builder) -> None:
    x = b.pick(lambda v: is_float(v) and v.rank >= 2 and isinstance(v.shape[-1], int))
    if x is None:
        return
    inner, outer = x.shape[-1], b.random.choice((1, 4, 6, 8))
    assert isinstance(inner, int)
    y = b.add("MatMul", [x, b.weight(x.dtype, inner, outer)], (*x.shape[:-1], outer), keep=b.flip(0.3))
    if b.flip(0.7):
        bias = b.weight(x.dtype, *b.random.choice(((outer,), (outer,), (1, outer), (1,), ())))
        pair = [y, bias] if b.flip(0.7) else [bias, y]
        y = b.add("Add", pair, y.shape)
    if b.flip(0.3):
        other = b.pick(lambda v: v.dtype == y.dtype and v.shape == y.shape)
        if other is not None:
            b.add("Add", [y, other] if b.flip() else [other, y], y.shape)


def gemm(b: Builder) -> None:
    x = b.pick(lambda v: is_float(v) and v.rank == 2 and isinstance(v.shape[1], int))
    if x is None:
        return
    inner, outer = x.shape[1], b.random.choice((1, 4, 6))
    assert isinstance(inner, int)
    is_turned = b.flip()
    weight = b.weight(x.dtype, *((outer, inner) if is_turned else (inner, outer)))
    bias = [b.weight(x.dtype, *b.random.choice(((outer,), (1, outer), (1,), ())))] if b.flip(0.7) else []
    attributes = {"alpha": b.random.choice((1.0, 0.5)), "beta": b.random.choice((1.0, 2.0))} if b.flip(0.3) else {}
    b.add("Gemm", [x, weight, *bias], (x.shape[0], outer), transB=int(is_turned), **attributes)


def convolution(b: Builder) -> None:
    x = b.pick(lambda v: is_float(v) and v.rank == 4 and is_fixed(v.shape[1:]) and v.dtype == FLOAT)
    if x is None or not all(isinstance(dim, int) and dim >= 3 for dim in x.shape[2:]):
        return
    channels, out = x.shape[1], b.random.choice((2, 4))
    assert isinstance(channels, int)
    if b.flip(0.2):
        x = b.add("Pad", [x, b.integers(0, 0, 1, 1, 0, 0, 1, 1)], (*x.shape[:2], *(int(d) + 2 for d in x.shape[2:])))
    if b.flip(0.2):
        x = _batch_norm(b, x, channels)
    pads = b.random.choice((0, 1))
    bias = [b.weight(x.dtype, out)] if b.flip() else []
    shape = (x.shape[0], out, *(int(d) + 2 * pads - 2 for d in x.shape[2:]))
    y = b.add("Conv", [x, b.weight(x.dtype, out, channels, 3, 3), *bias], shape, pads=[pads] * 4, keep=b.flip(0.2))
    for _ in range(b.random.randint(0, 2)):
        kind = b.random.randint(0, 3)
        if kind == 0:
            y = _batch_norm(b, y, out)
        elif kind == 1:
            y = b.add("Relu", [y], y.shape, keep=b.flip())
        elif kind == 2:
            y = b.add(
                b.random.choice(("Mul", "Add")),
                [y, b.weight(y.dtype, *b.random.choice(((out, 1, 1), (1, out, 1, 1), (1,))))],
                y.shape,
            )
        elif all(int(d) >= 2 for d in y.shape[2:]):
            op = b.random.choice(("MaxPool", "AveragePool"))
            y = b.add(op, [y], (*y.shape[:2], *(int(d) - 1 for d in y.shape[2:])), kernel_shape=[2, 2])
    if b.flip(0.3):
        b.add("GlobalAveragePool", [y], (*y.shape[:2], 1, 1))


def _batch_norm(b: Builder, x: Value, channels: int) -> Value:
    numbers = [b.weight(x.dtype, channels) for _ in range(3)]
    variance = b.constant([0.5 + b.random.random() for _ in range(channels)], x.dtype)
    return b.add(
        "BatchNormalization", [x, *numbers, variance], x.shape, keep=b.flip(), epsilon=b.random.choice((1e-5, 1e-3))
    )


def normalize(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype == FLOAT and v.rank >= 2 and isinstance(v.shape[-1], int))
    if x is not None and b.opset >= 17:
        last = x.shape[-1]
        assert isinstance(last, int)
        b.add("LayerNormalization", [x, b.weight(FLOAT, last), b.weight(FLOAT, last)], x.shape, axis=-1)


def resize(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype == FLOAT and v.rank == 4 and is_fixed(v.shape[2:]))
    if x is not None:
        factor = b.random.choice((1.0, 2.0))
        shape = (*x.shape[:2], *(int(int(dim) * factor) for dim in x.shape[2:]))
        scales = b.constant([1.0, 1.0, factor, factor], FLOAT)
        b.add("Resize", [x, None, scales], shape, mode=b.random.choice(("nearest", "linear")),
              coordinate_transformation_mode="asymmetric")  # fmt: skip


def quantized(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype == FLOAT and v.is_exact)
    if x is not None:
        scale, zero = b.constant(0.05, FLOAT), b.constant(b.random.choice((0, 3)), 2 if b.flip() else 3)
        q = b.add("QuantizeLinear", [x, scale, zero], x.shape, zero.dtype, keep=False, exact=True)
        if b.flip(0.3) and x.rank:
            order = list(range(x.rank))[::-1]
            q = b.add("Transpose", [q], x.shape[::-1], keep=False, perm=order)
        y = b.add("DequantizeLinear", [q, scale, zero], q.shape, FLOAT)
        if b.flip(0.3):
            q = b.add("QuantizeLinear", [y, scale, zero], y.shape, zero.dtype, keep=False)
            b.add("DequantizeLinear", [q, scale, zero], y.shape, FLOAT)


def embed(b: Builder) -> None:
    x = b.pick(lambda v: v.name == "ids")
    if x is not None:
        b.add("Gather", [b.weight(FLOAT, 5, 4), x], (*x.shape, 4), FLOAT)


def dropout(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        b.add("Dropout", [x], x.shape, exact=x.is_exact)


def repeat_node(b: Builder) -> None:
    """Write an existing node twice: one for common subexpressions."""
    candidates = [
        node
        for node in b.nodes[-8:]
        if len(node.output) == 1 and not any(attribute.HasField("g") for attribute in node.attribute)
    ]
    known = {value.name: value for value in b.pool}
    if candidates:
        node = b.random.choice(candidates)
        original = known.get(node.output[0])
        if original is not None:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
            b.add(node.op_type, list(node.input), original.shape, original.dtype, domain=node.domain,
                  exact=original.is_exact, **attributes)  # fmt: skip


def branch(b: Builder) -> None:
    """If, on a constant or a computed condition; both branches read values from outside."""
    if b.depth >= 2:
        return
    x = b.pick(lambda v: is_float(v) and v.rank >= 1)
    if x is None:
        return
    if b.flip(0.3):
        condition = b.constant(b.flip(), BOOL)
    else:
        whole = b.add("Shape", [x], (x.rank,), INT64, keep=False, exact=True)
        size = b.add("Gather", [whole, b.constant(0, INT64)], (), INT64, keep=False, axis=0, exact=True)
        condition = b.add("Greater", [size, b.constant(1, INT64)], (), BOOL, keep=False, exact=True)
    graphs = [_subgraph(b, x) for _ in range(2)]
    b.add("If", [condition], x.shape, x.dtype, then_branch=graphs[0], else_branch=graphs[1])


def _subgraph(b: Builder, like: Value) -> Any:
    inner = b.inner()
    _some_steps(inner)
    result = inner.pick(lambda v: v.dtype == like.dtype and v.shape == like.shape) or like
    result = inner.add(b.random.choice(("Identity", "Neg", "Tanh")), [result], like.shape, like.dtype)
    return helper.make_graph(
        inner.nodes, f"{inner.prefix}g", [], [helper.make_tensor_value_info(result.name, like.dtype, like.shape)]
    )


def _some_steps(b: Builder) -> None:
    for _ in range(b.random.randint(0, 3)):
        b.random.choice(SIMPLE)(b)


def loop(b: Builder) -> None:
    """Loop with a carried value and an output that stacks."""
    if b.depth >= 1:
        return
    x = b.pick(lambda v: v.dtype == FLOAT and v.rank >= 1)
    if x is None:
        return
    inner = b.inner()
    step = Value(f"{inner.prefix}i", INT64, (), True)
    going = Value(f"{inner.prefix}c", BOOL, (), True)
    carried = Value(f"{inner.prefix}x", x.dtype, x.shape)
    inner.pool += [carried]
    _some_steps(inner)
    source = inner.pick(lambda v: v.dtype == x.dtype and v.shape == x.shape) or carried
    last = inner.add("Tanh", [source], x.shape)
    seen = inner.add("Identity", [carried], x.shape)
    still = inner.add("Identity", [going], (), BOOL)
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        inner.nodes,
        f"{inner.prefix}g",
        [info(v.name, v.dtype, v.shape) for v in (step, going, carried)],
        [info(v.name, v.dtype, v.shape) for v in (still, last, seen)],
    )
    trips = b.constant(b.random.choice((1, 2, 3)), INT64)
    b.add_many("Loop", [trips, None if b.flip() else b.constant(True, BOOL), x],
               [(x.shape, x.dtype), ((f"{x.name}_t{b.count}", *x.shape), x.dtype)], body=body)  # fmt: skip


def scan(b: Builder) -> None:
    """Scan along the first axis with a running sum."""
    x = b.pick(lambda v: v.dtype == FLOAT and v.rank >= 2 and is_fixed(v.shape[1:]))
    if x is None or b.depth:
        return
    inner = b.inner()
    row, total = (Value(f"{inner.prefix}{n}", FLOAT, x.shape[1:]) for n in ("row", "sum"))
    inner.pool = [row, total]
    added = inner.add("Add", [row, total], x.shape[1:])
    _some_steps(inner)
    new, out = (inner.add("Identity", [added], x.shape[1:]) for _ in range(2))
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        inner.nodes,
        f"{inner.prefix}g",
        [info(v.name, v.dtype, v.shape) for v in (total, row)],
        [info(v.name, v.dtype, v.shape) for v in (new, out)],
    )
    start = b.constant(np.zeros([int(dim) for dim in x.shape[1:]]), FLOAT)
    b.add_many("Scan", [start, x], [(x.shape[1:], FLOAT), (x.shape, FLOAT)], body=body, num_scan_inputs=1)


def call(b: Builder) -> None:
    """Call a function of the model, defined here at its first use."""
    x = b.pick(lambda v: v.dtype == FLOAT)
    if x is None or b.depth:
        return
    name = b.random.choice(("double_relu", "leaky"))
    if name not in {function.name for function in b.functions}:
        if name == "double_relu":
            nodes = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Add", ["t", "t"], ["r"])]
            attributes: list[str] = []
        else:
            node = helper.make_node("LeakyRelu", ["a"], ["r"])
            node.attribute.append(helper.make_attribute_ref("alpha", AttributeProto.FLOAT))
            node.attribute[-1].ref_attr_name = "slope"
            nodes, attributes = [node], ["slope"]
        imports = [helper.make_opsetid("", b.opset)]
        b.functions.append(helper.make_function("local", name, ["a"], ["r"], nodes, imports, attributes))
    options = {"slope": 0.25} if name == "leaky" else {}
    b.add(name, [x], x.shape, domain="local", **options)


SIMPLE = (unary, binary, divide, cast, clip, transpose, squeeze, reshape, cut, join, expand, reduce)
BLOCKS = (
    *SIMPLE * 2,
    *(power, compare, logic, pad, tile, shape_chain, shape_chain, counted, matmul, matmul, gemm, convolution),
    *(normalize, resize, quantized, embed, dropout, repeat_node, branch, loop, scan, call),
    *PATTERNS * 2,
)
