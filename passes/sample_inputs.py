"""Inputs made up for checking a rewrite: they exercise a graph, but say nothing about accuracy on real data."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from passes.errors import BadModel
from passes.input_roles import Role, input_roles
from passes.matching import dims_of

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

SIZES = ((2, 5), (3, 7))
"""For each set of inputs: the lengths that symbols take in turn, so that two symbols differ."""

CHECK_SIZES = ((2, 5), (1, 6), (3, 1), (4, 4))
"""What a check tries: a batch of 1, a sequence of 1, all symbols equal; the last set has zeros and large numbers."""

LIMIT_ELEMENTS = 1 << 28
"""More elements than this in one set of inputs are not made: they would take gigabytes."""

_FREE_INTEGERS = 2
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 30.0, -30.0)
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}  # fmt: skip


def generated_inputs(
    model: ir.Model, *, sizes: tuple[tuple[int, ...], ...] = SIZES
) -> tuple[Mapping[str, np.ndarray], ...]:
    """Return one set of inputs for each of `sizes`; a symbol has one length in a set, also inside `past + sequence`.

    Indices stay within the tables that they index, masks are 0 and 1 with a 1 first, lengths lie within the symbols.
    Where there are more than two sets, the last one mixes zeros, ones and numbers of 30 into the floats. Raises
    BadModel for inputs of more than `LIMIT_ELEMENTS` elements.
    """
    import numpy as np

    roles = input_roles(model)
    sets: list[Mapping[str, np.ndarray]] = []
    for seed, turns in enumerate(sizes):
        random = np.random.default_rng(seed)
        lengths: dict[str, int] = {}
        feed: dict[str, np.ndarray] = {}
        elements = 0
        for value in model.graph.inputs:
            if value.is_initializer():
                continue
            name = str(value.name)
            dims = dims_of(value)
            places = enumerate((None,) if dims is None else dims)
            shape = [_length(dim, f"{name}.{axis}", lengths, turns) for axis, dim in places]
            elements += math.prod(shape)
            if elements > LIMIT_ELEMENTS:
                raise BadModel(
                    f"The generated inputs are too large: with '{name}' {shape} they have {elements} elements, "
                    f"over {LIMIT_ELEMENTS}.",
                    hint="Give the input smaller or symbolic dimensions; without a check the passes need no inputs.",
                )
            feed[name] = _array(value, shape, roles[name], random, longest=max(turns))
            if (
                len(sizes) > 2
                and seed == len(sizes) - 1
                and feed[name].dtype.kind == "f"
                and roles[name].kind != "mask"
            ):
                mixed = random.random(shape) < 0.3
                feed[name] = np.where(mixed, random.choice(_SPECIAL, shape), feed[name]).astype(feed[name].dtype)
        sets.append(feed)
    return tuple(sets)


def _length(dim: int | str | None, place: str, lengths: dict[str, int], turns: tuple[int, ...]) -> int:
    if isinstance(dim, int):
        return dim
    key = dim or place
    if key not in lengths and dim and not re.fullmatch(r"[\w.\-/:]+", dim):
        found = _evaluated(dim, lambda name: _length(name, place, lengths, turns))
        if found is not None and found >= 0:
            return found
    if key not in lengths:
        turn = len(lengths)
        spread = turn // len(turns) if len(set(turns)) > 1 else 0
        lengths[key] = turns[turn % len(turns)] + spread
    return lengths[key]


def _evaluated(expression: str, length_of: Callable[[str], int]) -> int | None:
    """Return what a dimension such as `past + 2*sequence` is; None when it is no such arithmetic."""

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp):
            return _ARITHMETIC[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return length_of(node.id)
        raise ValueError(expression)

    try:
        return value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        return None


def _array(value: ir.Value, shape: list[int], role: Role, random: np.random.Generator, *, longest: int) -> np.ndarray:
    import numpy as np

    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    if value.dtype is not None and value.dtype.is_string():
        return np.full(shape, "text", dtype=object)
    is_integer = value.dtype is not None and value.dtype.is_integer()
    is_named_mask = is_integer and role.kind in ("value", "length") and "mask" in str(value.name).lower()
    if dtype == np.bool_ or role.kind == "mask" or is_named_mask:
        mask = np.asarray(random.random(shape) < 0.7)
        if mask.ndim:
            mask[..., :1] = True  # a row that sees nothing is NaN in one form of attention and a mean in another
        return mask.astype(dtype)
    if is_integer:
        low, high = _range(role, longest, is_signed=dtype.kind == "i")
        return np.asarray(random.integers(low, max(high, low) + 1, size=shape)).astype(dtype)
    return np.asarray(random.standard_normal(shape)).astype(dtype)


def _range(role: Role, longest: int, *, is_signed: bool) -> tuple[int, int]:
    """Return the least and the greatest integer to draw."""
    if role.kind == "index" and role.high is not None and role.low is not None:
        low = role.low if not is_signed or role.low > 0 or role.high < 0 else 0
        return max(low, 0) if role.high >= 0 else low, role.high
    if role.kind == "length":
        return 1, longest
    if role.kind == "size":
        return 1, _FREE_INTEGERS
    return 0, _FREE_INTEGERS - 1
