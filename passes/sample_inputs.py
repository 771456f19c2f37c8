"""Inputs made up for checking a rewrite: they exercise a graph, but say nothing about accuracy on real data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from passes.matching import constant_tensor, dims_of, is_op

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

SIZES = ((2, 5), (3, 7))
"""For each set of inputs: the lengths that symbols take in turn, so that two symbols differ."""

_SAFE_INTEGER = 2


def generated_inputs(model: ir.Model) -> tuple[Mapping[str, np.ndarray], ...]:
    """Return one set of inputs for each of `SIZES`; every symbolic dimension differs between the sets."""
    import numpy as np

    bounds = integer_bounds(model)
    sets: list[Mapping[str, np.ndarray]] = []
    for seed, sizes in enumerate(SIZES):
        random = np.random.default_rng(seed)
        lengths: dict[str, int] = {}
        feed: dict[str, np.ndarray] = {}
        for value in model.graph.inputs:
            if value.is_initializer():
                continue
            name = str(value.name)
            dims = dims_of(value)
            places = enumerate((None,) if dims is None else dims)
            shape = [_length(dim, f"{name}.{axis}", lengths, sizes) for axis, dim in places]
            feed[name] = _array(value, shape, bounds.get(name, _SAFE_INTEGER), random)
        sets.append(feed)
    return tuple(sets)


def _length(dim: int | str | None, place: str, lengths: dict[str, int], sizes: tuple[int, ...]) -> int:
    if isinstance(dim, int):
        return dim
    key = dim or place
    if key not in lengths:
        turn = len(lengths)
        lengths[key] = sizes[turn % len(sizes)] + turn // len(sizes)
    return lengths[key]


def _array(value: ir.Value, shape: list[int], bound: int, random: np.random.Generator) -> np.ndarray:
    import numpy as np

    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    if value.dtype is not None and value.dtype.is_string():
        return np.full(shape, "text", dtype=object)
    if dtype == np.bool_:
        return np.asarray(random.random(shape) < 0.7)
    if value.dtype is not None and value.dtype.is_integer():
        if "mask" in str(value.name).lower():
            mask = (random.random(shape) < 0.7).astype(dtype)
            if mask.ndim:
                mask[..., 0] = 1
            return mask
        return np.asarray(random.integers(0, max(bound, 1), size=shape)).astype(dtype)
    return np.asarray(random.standard_normal(shape)).astype(dtype)


def integer_bounds(model: ir.Model) -> dict[str, int]:
    """Return, for each integer input that indexes a table, the length of the shortest such table."""
    bounds: dict[str, int] = {}
    origin: dict[ir.Value, str] = {value: str(value.name) for value in model.graph.inputs}
    for node in model.graph:
        if not node.outputs or not node.inputs or node.inputs[0] is None:
            continue
        if is_op(node, "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"):
            name = origin.get(node.inputs[0])
            if name is not None:
                origin[node.outputs[0]] = name
        if not is_op(node, "Gather", "GatherElements", "GatherND") or node.inputs[1] not in origin:
            continue
        table = constant_tensor(node.inputs[0])
        dims = dims_of(node.inputs[0]) if table is None else tuple(table.shape.numpy())
        attribute = node.attributes.get("axis")
        axis = 0 if attribute is None else attribute.as_int()
        length = dims[axis] if dims else None
        if isinstance(length, int):
            name = origin[node.inputs[1]]
            bounds[name] = min(bounds.get(name, length), length)
    return bounds
