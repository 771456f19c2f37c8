"""One sample fitted to a model's inputs: names, types, shapes and values checked, safe casts made."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import UsageError
from targets.base import TensorSpec

if TYPE_CHECKING:
    from targets.base import Array

_SAFE_CASTS = {("int32", "int64"), ("int16", "int64"), ("uint8", "int64"), ("int64", "int32"), ("bool", "int64"),
               ("float64", "float32"), ("float16", "float32"), ("float32", "float64")}  # fmt: skip
"""Given type -> wanted type. Between integers only where every value survives."""


def fitted(
    sample: Mapping[str, Any], inputs: Sequence[TensorSpec], *, label: str, finite: bool = True
) -> dict[str, Array]:
    """Return the sample as the inputs want it, in their order; safe casts are made. Raises UsageError otherwise.

    finite: whether NaN and infinite values are refused.
    """
    wanted = {spec.name: spec for spec in inputs}
    unknown = [name for name in sample if name not in wanted]
    missing = [name for name in wanted if name not in sample]
    if unknown or missing:
        said = [f"has no input '{name}'" for name in missing]
        for name in unknown:
            near = difflib.get_close_matches(name, missing or wanted, n=1, cutoff=0.5)
            said.append(f"has '{name}', which is no input" + (f" (meant '{near[0]}'?)" if near else ""))
        hint = f"The inputs are: {'; '.join(map(str, inputs))}"
        raise UsageError(f"{label} {', and '.join(said)}.", hint=hint)
    result: dict[str, Array] = {}
    sizes: dict[str, tuple[str, int]] = {}
    for spec in inputs:
        array = _cast(np.asarray(sample[spec.name]), spec, label)
        _check_shape(array, spec, label, sizes)
        if finite and array.dtype.kind in "fV" and not bool(np.isfinite(array).all()):
            raise UsageError(
                f"{label}, input '{spec.name}' has NaN or infinite values.",
                hint="Accuracy cannot be judged on such a sample: leave it out, or mend how it is made.",
            )
        result[spec.name] = array
    return result


def _cast(array: Array, spec: TensorSpec, label: str) -> Array:
    given = array.dtype.name
    if not array.dtype.isnative:  # runtimes take the bytes as they lie, and would read other numbers
        array = array.astype(array.dtype.newbyteorder("="))
    if given == spec.dtype or (spec.dtype == "string" and array.dtype.kind in "OU"):
        return array
    if (given, spec.dtype) in _SAFE_CASTS:
        with np.errstate(over="ignore"):  # what becomes infinite is refused afterwards, by name
            cast_array = array.astype(spec.dtype)
        if array.dtype.kind != "i" or bool((cast_array == array).all()):
            return cast_array
    raise UsageError(
        f"{label}, input '{spec.name}' is {given}; the model takes {spec.dtype}.",
        hint="Convert it where the sample is made: this cast could change values.",
    )


def _check_shape(array: Array, spec: TensorSpec, label: str, sizes: dict[str, tuple[str, int]]) -> None:
    got = list(array.shape)
    if array.ndim != len(spec.shape):
        raise UsageError(f"{label}, input '{spec.name}' has shape {got}; expected {spec}.", hint=_batch_hint(got, spec))
    for axis, (dim, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise UsageError(
                f"{label}, input '{spec.name}' has shape {got}; expected {spec}.",
                hint=f"Dimension {axis} is fixed at {dim}.",
            )
        if isinstance(dim, str):
            owner, expected = sizes.setdefault(dim, (spec.name, size))
            if size != expected:
                raise UsageError(
                    f"{label}: the dimension '{dim}' is {expected} in '{owner}' and {size} in '{spec.name}'.",
                    hint="A named dimension has one size in a sample.",
                )
        if size == 0:
            raise UsageError(f"{label}, input '{spec.name}' is empty: {got}.", hint="Leave this sample out.")


def _batch_hint(got: Sequence[int], spec: TensorSpec) -> str:
    if len(got) + 1 == len(spec.shape):
        return "Is the batch dimension missing? A sample is one batch: add it with array[None]."
    return "A sample is one batch, with every dimension of the input."
