"""The elements of a small integer tensor, as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass

from passes.dimensions import Dims


@dataclass(frozen=True, slots=True)
class Content:
    """The elements of an integer or boolean tensor of rank 0 (`is_scalar`) or 1; None is an unknown element."""

    elements: Dims
    is_scalar: bool = False

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The elements as integers, or None where one depends on a symbol or is unknown."""
        known = [dim.factor for dim in self.elements if dim is not None and not dim.symbols]
        return tuple(known) if len(known) == len(self.elements) else None
