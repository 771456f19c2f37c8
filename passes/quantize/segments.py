"""A graph run in parts, one after the other, so that the inner values held at once stay within a memory bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.exposure import ELEMENTS, ExposedGraph, run
from passes.quantize.sample_check import check_sample

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnxruntime as ort

    Array = npt.NDArray[np.generic]
    Feeds = Mapping[str, Array]

_GROWTH = 1.25
"""A sample whose axes are at most this much longer than those planned for is run as planned."""

_VALUE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring nodes that are run together.

    names: the values to hand out. kept: what later segments read. last_read: what no later one reads.
    """

    part: range
    names: tuple[str, ...]
    kept: tuple[str, ...]
    last_read: tuple[str, ...]
    session: ort.InferenceSession


@dataclass(slots=True)
class Segments:
    """The values `names` of a graph, computed in segments whose values take about `segment_bytes`.

    Each node runs once a sample. The plan is made for the first sample, and again for one that is clearly larger; a
    segment never ends where something other than a plain array would cross.
    """

    exposed: ExposedGraph
    names: Sequence[str]
    segment_bytes: int
    segments: list[Segment] = field(default_factory=list)
    _sizes: ort.InferenceSession | None = None
    _elements: dict[str, int] = field(default_factory=dict)
    _planned: list[dict[str, tuple[int, ...]]] = field(default_factory=list)

    def run(self, feeds: Feeds, *, sample: int) -> Iterator[dict[str, Array]]:
        """Yield the values by name, a segment's at a time; each dict is emptied when the next is asked for.

        `sample` is named in errors. Raises UsageError for a sample that does not fit or run.
        """
        check_sample(feeds, self.exposed.inputs, sample=sample)
        shapes = {name: np.shape(array) for name, array in feeds.items()}
        if not any(_fits(shapes, planned) for planned in self._planned):
            self._plan(feeds, sample)
            self._planned = [planned for planned in self._planned if not _fits(planned, shapes)]
            self._planned.append(shapes)
        values = dict(feeds)
        yield {name: values[name] for name in self.names if name in values}
        for segment in self.segments:
            outputs = run(segment.session, self._feeds(segment.session, values), sample=sample)
            found = dict(zip(_fetched(segment.names, segment.kept), outputs, strict=True))
            del outputs
            values |= {name: found[name] for name in segment.kept}
            for name in segment.last_read:
                del values[name]
            for name in found.keys() - set(segment.names):
                del found[name]
            yield found
            found.clear()

    def _feeds(self, session: ort.InferenceSession, values: Feeds) -> dict[str, Array | ort.OrtValue]:
        shared = self.exposed.shared
        names = [value.name for value in session.get_inputs()]
        return {name: shared[name] if name in shared else values[name] for name in names}

    def _plan(self, feeds: Feeds, sample: int) -> None:
        """Measure the values of this sample, and cut the graph anew; a segment that stays keeps its session."""
        inner = [name for name in self.names if name not in self.exposed.inputs]
        if not inner:
            return
        if self._sizes is None:
            self._sizes = self.exposed.session(range(len(self.exposed.nodes)), inner, sizes_only=True)
        measured = run(self._sizes, self._feeds(self._sizes, feeds), sample=sample)
        for name, elements in zip(inner, measured, strict=True):
            self._elements[name] = max(int(elements), self._elements.get(name, 0))
        known = {(segment.part, segment.names, segment.kept): segment.session for segment in self.segments}
        self.segments = []
        for part, names, kept, last_read in _contents(self.exposed, inner, self._parts(inner)):
            if not names and not kept:
                continue
            session = known.get((part, names, kept)) or self.exposed.session(part, _fetched(names, kept))
            self.segments.append(Segment(part, names, kept, last_read, session))

    def _parts(self, inner: Sequence[str]) -> list[range]:
        """Return the nodes of each segment."""
        wanted = set(inner)
        may_end = _possible_ends(self.exposed)
        parts: list[range] = []
        start = held = 0
        end = 0  # the last place so far where the segment may end
        held_at_end = 0
        for index, node in enumerate(self.exposed.nodes):
            held += sum(self._elements[name] * _VALUE_BYTES for name in node.output if name in wanted)
            if held > self.segment_bytes and end > start:
                parts.append(range(start, end))
                start, held = end, held - held_at_end
            if may_end[index]:
                end, held_at_end = index + 1, held
        if start < len(self.exposed.nodes):
            parts.append(range(start, len(self.exposed.nodes)))
        return parts


def _possible_ends(exposed: ExposedGraph) -> list[bool]:
    """Return for each node whether a segment may end after it: only plain arrays cross there."""
    maker = {name: index for index, node in enumerate(exposed.nodes) for name in node.output}
    last = {name: index for index, names in enumerate(exposed.reads) for name in names}
    begins = [0] * (len(exposed.nodes) + 1)
    for name, index in maker.items():
        if name and name in last and exposed.types[name] not in ELEMENTS:
            begins[index] += 1
            begins[last[name]] -= 1
    crossing = np.cumsum(begins[:-1])
    return [bool(count == 0) for count in crossing]


def _contents(
    exposed: ExposedGraph, inner: Sequence[str], parts: Sequence[range]
) -> Iterator[tuple[range, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """Yield of each part its nodes, the wanted values it makes, those later parts read, and those read here last."""
    wanted = set(inner)
    place = {index: number for number, part in enumerate(parts) for index in part}
    made: dict[str, int] = dict.fromkeys(exposed.inputs, -1)
    made |= {name: place[index] for index, node in enumerate(exposed.nodes) for name in node.output if name}
    last = {name: place[index] for index, names in enumerate(exposed.reads) for name in names if name in made}
    for number, part in enumerate(parts):
        own = [name for index in part for name in exposed.nodes[index].output if name]
        kept = tuple(name for name in own if last.get(name, -1) > number)
        ended = tuple(name for name, end in last.items() if end == number and made[name] < number)
        yield part, tuple(name for name in own if name in wanted), kept, ended


def _fetched(names: Sequence[str], kept: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*names, *kept)))


def _fits(shapes: Mapping[str, tuple[int, ...]], planned: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether no axis of `shapes` is clearly longer than in `planned`, nor the number of axes another."""
    return all(
        len(shape) == len(planned[name])
        and all(size <= _GROWTH * most for size, most in zip(shape, planned[name], strict=True))
        for name, shape in shapes.items()
    )
