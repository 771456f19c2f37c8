"""The algebra of dimensions: an integer, or an integer times named symbols, such as `4*batch*sequence`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_UNNAMED, _AT_MOST = "?", "<="
_serial = itertools.count()
_PRODUCT = re.compile(r"\s*\w+\s*(\*\s*\w+\s*)*")


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension: `factor` times the product of `symbols`, which are sorted and stand for integers of 0 or more."""

    factor: int
    symbols: tuple[str, ...] = ()

    @property
    def fixed(self) -> int | None:
        """The integer, or None where a symbol takes part."""
        return None if self.symbols else self.factor

    def __str__(self) -> str:
        head = [] if self.factor == 1 and self.symbols else [str(self.factor)]
        return "*".join([*head, *self.symbols])


Dims = tuple["Dim | None", ...]
"""A shape of known rank; None is an unknown dimension."""


@lru_cache(maxsize=4096)
def dim_from(value: int | str | None) -> Dim | None:
    """Return the dimension that a model file spells; None for an unknown one.

    A name that is not a plain product (`sequence + 1`) is one symbol, equal only to itself.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int):
        return Dim(value)
    if not _PRODUCT.fullmatch(value):
        return Dim(1, (value,))
    return product(
        Dim(int(part)) if part.isdecimal() else Dim(1, (part,)) for part in (p.strip() for p in value.split("*"))
    )


def unnamed(value: str, axis: int, *, at_most: Dim | None = None) -> Dim:
    """Return a new symbol for a dimension that has no name: equal to itself only, and never written to a file.

    Each call gives another one, since a value's name may go on to another value.

    `at_most` records that it is min(at_most, something), as a slice up to a symbolic end is.
    """
    bound = f"{_AT_MOST}{at_most}" if at_most is not None else ""
    return Dim(1, (f"{_UNNAMED}{value}.{axis}.{next(_serial)}{bound}",))


def is_at_most(dim: Dim, bound: Dim) -> bool:
    """Return whether `dim` was made as the smaller of `bound` and something."""
    return len(dim.symbols) == 1 and dim.factor == 1 and dim.symbols[0].endswith(f"{_AT_MOST}{bound}")


def plain(dim: Dim | None) -> int | str | None:
    """Return the dimension as a model file spells it."""
    if dim is None or any(symbol.startswith(_UNNAMED) for symbol in dim.symbols):
        return None
    return str(dim) if dim.symbols else dim.factor


def product(dims: Iterable[Dim | None]) -> Dim | None:
    """Return the product, or None where a factor is unknown."""
    factor = 1
    symbols: list[str] = []
    for dim in dims:
        if dim is None:
            return None
        factor *= dim.factor
        symbols.extend(dim.symbols)
    return Dim(0) if factor == 0 else Dim(factor, tuple(sorted(symbols)))


def quotient(whole: Dim | None, part: Dim | None) -> Dim | None:
    """Return whole / part where the division has no remainder whatever the symbols are; else None."""
    if whole is None or part is None or part.factor == 0 or whole.factor % part.factor:
        return None
    left = list(whole.symbols)
    for symbol in part.symbols:
        if symbol not in left:
            return None
        left.remove(symbol)
    return Dim(whole.factor // part.factor, tuple(left))


def total(first: Dim | None, second: Dim | None, *, sign: int = 1) -> Dim | None:
    """Return first + sign * second where both are of the same symbols, or one is 0; else None."""
    if first is None or second is None:
        return None
    if second.factor == 0:
        return first
    if first.symbols == second.symbols:
        return Dim(first.factor + sign * second.factor, first.symbols if first.factor + sign * second.factor else ())
    return second if first.factor == 0 and sign == 1 else None


def equal(first: Dim | None, second: Dim | None) -> bool | None:
    """Return whether two dimensions are the same number; None where that depends on the symbols."""
    if first is None or second is None:
        return None
    if first == second:
        return True
    if not first.symbols and not second.symbols:
        return False
    negative = (not first.symbols and first.factor < 0) or (not second.symbols and second.factor < 0)
    return False if negative and first.factor * second.factor < 0 else None


def broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    """Return the shape that numpy broadcasting gives; a dimension is unknown where two symbols differ."""
    if any(shape is None for shape in shapes) or not shapes:
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max(len(shape) for shape in known)
    padded = [(Dim(1),) * (rank - len(shape)) + shape for shape in known]
    return tuple(_broadcast_dim(column) for column in zip(*padded, strict=True))


def _broadcast_dim(column: Sequence[Dim | None]) -> Dim | None:
    wide = [dim for dim in column if dim != Dim(1)]
    if not wide:
        return Dim(1)
    for dim in wide:  # an integer over 1 decides, whatever the symbols next to it are
        if dim is not None and dim.fixed is not None:
            return dim
    known = [dim for dim in wide if dim is not None]
    if len(known) < len(wide):
        return None
    # min(d, ..) beside d is d or 1 in every run that is legal
    return next((one for one in known if all(dim == one or is_at_most(dim, one) for dim in known)), None)


def broadcasts_into(small: Dims | None, large: Dims | None) -> bool:
    """Return whether `small` provably broadcasts to exactly `large`, which does not grow."""
    if small is None or large is None or len(small) > len(large):
        return False
    tail = large[len(large) - len(small) :]
    return all(part is not None and part in (Dim(1), whole) for part, whole in zip(small, tail, strict=True))
