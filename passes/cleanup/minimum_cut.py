"""A smallest cut of a directed network: what costs least to tell two sets of nodes apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

UNLIMITED = 1 << 30
"""A capacity that no smallest cut pays."""

MOST_SEARCHES = 64
"""As many lengths of paths are looked at: what there is to gain lies near, and each costs a walk over the network."""


@dataclass(slots=True)
class Network:
    """Edges with integer capacities between any hashable nodes.

    _numbers: the nodes in the order they came. _edges: for each node its edges' numbers; an edge and the one back to it
    are neighbours, 2k and 2k + 1. _ends, _left: by edge, where it leads and what it can still take.
    """

    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _edges: list[list[int]] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    _left: list[int] = field(default_factory=list)

    def connect(self, start: Hashable, end: Hashable, capacity: int) -> None:
        """Add an edge, or capacity to what there is between the two."""
        if start == end:
            return
        first, second = self._number(start), self._number(end)
        self._edges[first].append(len(self._ends))
        self._edges[second].append(len(self._ends) + 1)
        self._ends += (second, first)
        self._left += (capacity, 0)

    def source_side(self, source: Hashable, sink: Hashable, most_searches: int = MOST_SEARCHES) -> set[Hashable] | None:
        """Return the fewest nodes that a smallest cut leaves with `source`; the capacities are used up.

        Fills all shortest paths at once, then the next longer ones (Dinitz 1970): as many walks over the network as
        there are lengths of paths. None where that are more than `most_searches`.
        """
        first, last = self._number(source), self._number(sink)
        for _ in range(most_searches):
            distances = self._distances(first, last)
            if distances[last] < 0:
                return {node for node, number in self._numbers.items() if distances[number] >= 0}
            self._fill(first, last, distances)
        return None

    def _number(self, node: Hashable) -> int:
        number = self._numbers.setdefault(node, len(self._edges))
        if number == len(self._edges):
            self._edges.append([])
        return number

    def _distances(self, first: int, last: int) -> list[int]:
        """Return the steps from `first` over edges that take more; -1 where none lead, or only beyond `last`."""
        distances = [-1] * len(self._edges)
        distances[first] = 0
        queue = deque([first])
        while queue and distances[last] < 0:
            node = queue.popleft()
            for edge in self._edges[node]:
                end = self._ends[edge]
                if distances[end] < 0 and self._left[edge]:
                    distances[end] = distances[node] + 1
                    queue.append(end)
        return distances

    def _fill(self, first: int, last: int, distances: list[int]) -> None:
        """Use up every path on which each step leads one farther; an edge that leads nowhere is tried once."""
        following = [0] * len(self._edges)
        path: list[int] = []
        node = first
        while True:
            if node == last:
                amount = min(self._left[edge] for edge in path)
                for edge in path:
                    self._left[edge] -= amount
                    self._left[edge ^ 1] += amount
                full = next(place for place, edge in enumerate(path) if not self._left[edge])
                node = self._ends[path[full] ^ 1]
                del path[full:]
                continue
            edges = self._edges[node]
            while following[node] < len(edges):
                edge = edges[following[node]]
                if self._left[edge] and distances[self._ends[edge]] == distances[node] + 1:
                    path.append(edge)
                    node = self._ends[edge]
                    break
                following[node] += 1
            else:
                if not path:
                    return
                node = self._ends[path.pop() ^ 1]
                following[node] += 1
