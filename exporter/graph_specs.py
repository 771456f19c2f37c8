"""The inputs and outputs of a graph as TensorSpecs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from targets.base import Dim, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


def specs_of(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Return one spec per value; an unknown type is dtype "undefined", an unknown rank an empty shape of unknowns."""
    return tuple(TensorSpec(str(value.name), _dtype_name(value), _shape(value)) for value in values)


def _dtype_name(value: ir.Value) -> str:
    if value.dtype is None:
        return "undefined"
    try:
        return str(value.dtype.numpy())
    except TypeError:
        return value.dtype.name.lower()


def _shape(value: ir.Value) -> tuple[Dim, ...]:
    if value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
