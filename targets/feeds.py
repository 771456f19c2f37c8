"""Whether what a user feeds fits a model's inputs. Runtimes differ in what they let through; this does not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from passes.errors import UsageError

if TYPE_CHECKING:
    from targets.base import Array, TensorSpec


def check_feeds(feeds: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> None:
    """Return when every input is fed once, with its dtype, rank and sizes.

    Raises UsageError for all that is wrong at once: unknown names with near matches, missing names, another dtype
    (nothing is ever cast), another rank, another size of a fixed dimension, two sizes for one named dimension.
    """
    problems = [*_unknown(feeds, inputs), *_missing(feeds, inputs)]
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        if spec.name in feeds:
            problems += _misfits(feeds[spec.name], spec, sizes)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        expected = "; ".join(map(str, inputs)) or "no inputs"
        raise UsageError(f"The inputs do not fit the model:\n{listed}", hint=f"The model takes {expected}.")


def _unknown(feeds: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[str]:
    known = [spec.name for spec in inputs]
    problems = []
    for name in feeds:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        problems.append(f"'{name}' is not an input" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    return problems


def _missing(feeds: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[str]:
    return [f"'{spec.name}' is missing" for spec in inputs if spec.name not in feeds]


def _misfits(array: Array, spec: TensorSpec, sizes: dict[str, tuple[int, str]]) -> list[str]:
    if not isinstance(array, np.ndarray | np.generic):
        return [f"'{spec.name}' is a {type(array).__name__}, not a numpy array"]
    problems = []
    if spec.dtype == "string" and array.dtype.kind in "OU":
        pass  # numpy has two types of text, and counts the characters of one of them in its name
    elif array.dtype.name != spec.dtype:
        problems.append(f"'{spec.name}' has dtype {array.dtype.name}, not {spec.dtype}")
    elif not array.dtype.isnative:  # numpy gives it the same name; runtimes read its bytes as they lie
        problems.append(f"'{spec.name}' has {array.dtype.name} in the other byte order ({array.dtype.str})")
    if array.ndim != len(spec.shape):
        return [*problems, f"'{spec.name}' has {array.ndim} dimensions {list(array.shape)}, not {len(spec.shape)}"]
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            problems.append(f"'{spec.name}' has size {size} in dimension {axis}, not {dim}")
        elif isinstance(dim, str):
            first, owner = sizes.setdefault(dim, (size, spec.name))
            if size != first:
                problems.append(
                    f"'{spec.name}' has {dim} = {size} in dimension {axis}, but '{owner}' has {dim} = {first}"
                )
    return problems


def plain_text(array: Array) -> Array:
    """Return an array of Python strings, which runtimes give, as numpy's own text; any other array as it is."""
    is_text = (
        isinstance(array, np.ndarray) and array.dtype == object and all(isinstance(one, str) for one in array.flat)
    )
    return array.astype(np.str_) if is_text else array
