"""Inputs and outputs as TensorSpecs, and the range of shapes that an engine is built for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from passes.errors import UsageError
from targets.base import Dim, DimRange, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


def specs_of(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Return the specs of graph inputs or outputs; a dimension without size and name is None."""
    return tuple(_spec(value) for value in values)


def _spec(value: ir.Value) -> TensorSpec:
    if value.dtype is None or value.shape is None:
        raise UsageError(
            f"'{value.name}' has no type or no rank; an artifact needs both of every input and output.",
            hint="Export the model with shapes, or run shape inference on it.",
        )
    dims: tuple[Dim, ...] = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return TensorSpec(str(value.name), value.dtype.numpy().name, dims)


def ranges_of(inputs: Sequence[TensorSpec], dims: Mapping[str, DimRange]) -> dict[str, list[list[int]]]:
    """Return input name -> [least, usual, greatest shape].

    Raises UsageError that lists every dimension whose range is not given, and how to give it.
    """
    unnamed = [spec for spec in inputs if None in spec.shape]
    if unnamed:
        raise UsageError(
            f"An engine needs the range of every dimension, and some have no name: {', '.join(map(str, unnamed))}.",
            hint="Name the dynamic dimensions when exporting, or fix them.",
        )
    missing = sorted({dim for spec in inputs for dim in spec.shape if isinstance(dim, str) and dim not in dims})
    if missing:
        raise UsageError(
            f"An engine needs the range of the dynamic dimension(s) {', '.join(missing)}, and none is given.",
            hint="Give sample inputs, whose sizes set it, or name the least, usual and greatest size in "
            "BuildOptions.dims: {'" + missing[0] + "': DimRange(1, 8, 32)}.",
        )
    return {spec.name: [list(shape) for shape in _three_shapes(spec, dims)] for spec in inputs}


def _three_shapes(spec: TensorSpec, dims: Mapping[str, DimRange]) -> tuple[tuple[int, ...], ...]:
    found = [
        (dims[dim].minimum, dims[dim].usual, dims[dim].maximum) if isinstance(dim, str) else (dim, dim, dim)
        for dim in spec.shape
        if dim is not None
    ]
    return tuple(zip(*found, strict=True)) if found else ((), (), ())
