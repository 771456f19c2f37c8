"""Which outputs have a value for each token, and so hold padding that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from exporter.sources.base import Feeds
    from targets.base import Array


@dataclass(frozen=True, slots=True)
class Padding:
    """`mask` names the input [B, S] whose zeros mark padding; `outputs` are those of shape [B, S, ...]."""

    mask: str
    outputs: frozenset[str]

    def real_positions(self, name: str, feeds: Feeds) -> npt.NDArray[np.bool_] | None:
        """Return where output `name` is to be compared, [B, S]; None for everywhere."""
        return np.asarray(feeds[self.mask]) != 0 if name in self.outputs else None


def padding_of(mask: str, references: Iterable[tuple[Feeds, Mapping[str, Array]]]) -> Padding:
    """Return the outputs whose first two sizes are the mask's in every sample.

    In one sample sizes may agree by chance ([B, heads, ...] where heads is the length); over samples of several
    lengths they don't.
    """
    candidates: set[str] | None = None
    for feeds, outputs in references:
        shape = np.shape(feeds[mask])
        fitting = {
            name for name, value in outputs.items() if value.ndim > len(shape) and value.shape[: len(shape)] == shape
        }
        candidates = fitting if candidates is None else candidates & fitting
    return Padding(mask, frozenset(candidates or ()))
