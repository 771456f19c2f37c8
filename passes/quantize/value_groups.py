"""Which inner values of a graph are asked for together, so that those held at once stay within a memory bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.exposure import ExposedGraph, run, size_name

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnxruntime as ort

    Feeds = Mapping[str, npt.NDArray[np.generic]]
    Group = tuple[tuple[str, ...], ort.InferenceSession]


@dataclass(slots=True)
class ValueGroups:
    """The values `names` in groups of at most `group_bytes`, planned again when a larger sample comes.

    Sizes only ever grow: a group is planned for the largest that each of its values has been. A sample is larger when
    some input has a longer axis than in every sample planned for.
    """

    exposed: ExposedGraph
    names: Sequence[str]
    group_bytes: int
    _sizes: ort.InferenceSession | None = None
    _elements: dict[str, int] = field(default_factory=dict)
    _planned: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    _groups: list[Group] = field(default_factory=list)

    def groups(self, feeds: Feeds, *, sample: int) -> Sequence[Group]:
        """Return the names of each group with the session that computes them; `sample` is named in errors."""
        shapes = {name: np.shape(array) for name, array in feeds.items()}
        if not any(_fits(shapes, planned) for planned in self._planned):
            self._plan(feeds, sample)
            self._planned = [planned for planned in self._planned if not _fits(planned, shapes)]
            self._planned.append(shapes)
        return self._groups

    def _plan(self, feeds: Feeds, sample: int) -> None:
        """Measure the values of this sample, and make sessions for the groups that change."""
        if self._sizes is None:
            self._sizes = self.exposed.session(self.names, sizes_only=True)
            outputs = [size_name(index) for index in range(len(self.names))]
            assert [output.name for output in self._sizes.get_outputs()] == outputs
        groups: list[list[str]] = [[]]
        held = 0
        for name, elements in zip(self.names, run(self._sizes, feeds, sample=sample), strict=True):
            self._elements[name] = max(int(elements), self._elements.get(name, 0))
            size_bytes = self._elements[name] * 4
            if groups[-1] and held + size_bytes > self.group_bytes:
                groups.append([])
                held = 0
            groups[-1].append(name)
            held += size_bytes
        known = dict(self._groups)
        self._groups = [
            (group, known.get(group) or self.exposed.session(group)) for group in (tuple(names) for names in groups)
        ]


def _fits(shapes: Mapping[str, tuple[int, ...]], planned: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether no axis of `shapes` is longer than in `planned`."""
    return shapes.keys() == planned.keys() and all(
        len(shape) == len(planned[name]) and all(size <= most for size, most in zip(shape, planned[name], strict=True))
        for name, shape in shapes.items()
    )
