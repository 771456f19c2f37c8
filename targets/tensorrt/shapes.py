"""The range of shapes that an engine is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from passes.errors import UsageError
from targets.base import DimRange, TensorSpec


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
