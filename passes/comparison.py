"""How far two runs of a graph lie apart, and whether that is more than rewrites may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5
"""How far an fp32 output may move: rewrites reorder sums, which costs a few units in the last place per layer."""


def worst_difference(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the greatest move of an output, over its greatest magnitude where that is above 1; and its name."""
    import numpy as np

    worst, worst_name = 0.0, ""
    for name in expected.keys() & actual.keys():
        old, new = expected[name], actual[name]
        if old.dtype.kind in "OSU" or old.shape != new.shape or not old.size:
            continue
        first, second = old.astype(np.float64), new.astype(np.float64)
        finite = np.isfinite(first) & np.isfinite(second)
        if not finite.any():
            continue
        error = float(np.abs(first - second)[finite].max()) / max(1.0, float(np.abs(first[finite]).max()))
        if error > worst or not worst_name:
            worst, worst_name = error, name
    return worst, worst_name


def difference(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], *, relative: float, absolute: float
) -> str:
    """Return which output differs and by how much; empty when all agree. NaN agrees with NaN only.

    `absolute` is meant for numbers around 1: it grows with the output's greatest magnitude where that is larger, since
    a sum's rounding error follows its terms.
    """
    import numpy as np

    if set(expected) != set(actual):
        return f"outputs are {sorted(actual)}, not {sorted(expected)}"
    for name, old in expected.items():
        new = actual[name]
        if old.dtype != new.dtype or old.shape != new.shape:
            return f"output '{name}' is {new.dtype}{list(new.shape)}, not {old.dtype}{list(old.shape)}"
        if old.dtype.kind in "iubOSU":
            if not np.array_equal(old, new):
                return f"output '{name}' differs in {int((old != new).sum())} of {old.size} elements"
            continue
        first, second = old.astype(np.float64), new.astype(np.float64)
        finite = first[np.isfinite(first)]
        allowed = absolute * max(1.0, float(np.abs(finite).max()) if finite.size else 1.0)
        if not np.allclose(second, first, rtol=relative, atol=allowed, equal_nan=True):
            with np.errstate(invalid="ignore"):
                error = np.abs(first - second)
            worst = float(np.nanmax(error)) if np.isfinite(error).any() else float("nan")
            return (
                f"output '{name}' moved by up to {worst:.3g}, more than atol={allowed:g} + rtol={relative:g}, "
                f"or changed where it is finite"
            )
    return ""
