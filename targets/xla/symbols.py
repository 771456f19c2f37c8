"""The shapes of a model's inputs as jax sees them: symbolic dimensions by name, or sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import UsageError
from targets.base import DimRange, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

_RESERVED = ("floordiv", "max", "min", "mod")
"""What jax's notation for dimensions reads as an operation."""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def fed_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the graph's inputs that a caller feeds: those without an initializer."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def symbol_names(specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return each dimension's name in the model -> the identifier that stands for it in the exported program.

    A dimension without a name gets one of its own, "<input>[<axis>]".
    """
    names: dict[str, str] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                continue
            name = dim_name(spec, axis)
            is_plain = _IDENTIFIER.fullmatch(name) and name not in _RESERVED
            plain = name if is_plain else re.sub(r"\W", "_", f"d_{name}")
            while name not in names and plain in names.values():
                plain += "_"
            names.setdefault(name, plain)
    return names


def dim_name(spec: TensorSpec, axis: int) -> str:
    dim = spec.shape[axis]
    return dim if isinstance(dim, str) and dim else f"{spec.name}[{axis}]"


def expressions_of(specs: Sequence[TensorSpec], multiples: Mapping[str, int]) -> dict[str, str]:
    """Return each dimension's name in the model -> its size in jax's notation: "height", or "4*height_over_4".

    multiples: the dimensions that are taken in multiples of a number, by their names in the model.
    """
    names = symbol_names(specs)
    expressions = dict(names)
    for name, factor in multiples.items():
        part = f"{names[name]}_over_{factor}"
        while part in names.values():
            part += "_"
        expressions[name] = f"{factor}*{part}"
    return expressions


def symbolic_inputs(
    specs: Sequence[TensorSpec], bounds: Sequence[str] = (), multiples: Mapping[str, int] = MappingProxyType({})
) -> list[Any]:
    """Return a jax.ShapeDtypeStruct for each input, its open dimensions symbolic in one scope under `bounds`."""
    import jax
    from jax import export

    sizes = expressions_of(specs, multiples)
    symbols: dict[str, Any] = {}
    if sizes:
        symbols = dict(zip(sizes, export.symbolic_shape(", ".join(sizes.values()), constraints=bounds), strict=True))
    return [
        jax.ShapeDtypeStruct(
            tuple(
                dim if isinstance(dim, int) else symbols[dim_name(spec, axis)] for axis, dim in enumerate(spec.shape)
            ),
            dtype_from_name(spec.dtype),
        )
        for spec in specs
    ]


def fixed_specs(specs: Sequence[TensorSpec], dims: Mapping[str, DimRange]) -> list[TensorSpec]:
    """Return the inputs with every open dimension at its usual size. Raises UsageError for one that has none."""
    missing = sorted(
        {
            dim_name(spec, axis)
            for spec in specs
            for axis, dim in enumerate(spec.shape)
            if not isinstance(dim, int) and dim_name(spec, axis) not in dims
        }
    )
    if missing:
        raise UsageError(
            f"The xla target needs a size for {', '.join(missing)}: this build is for fixed shapes.",
            hint="Give samples, from which sizes are taken, or name the dimensions' sizes.",
        )
    return [
        TensorSpec(
            spec.name,
            spec.dtype,
            tuple(
                dim if isinstance(dim, int) else dims[dim_name(spec, axis)].usual for axis, dim in enumerate(spec.shape)
            ),
        )
        for spec in specs
    ]


def dtype_from_name(name: str) -> np.dtype[Any]:
    """Return a dtype by numpy's or ml_dtypes' name for it."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)
