"""A smallest cut of a directed network: what costs least to tell two sets of nodes apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise

UNLIMITED = 1 << 30
"""A capacity that no smallest cut pays."""


@dataclass(slots=True)
class Network:
    """Edges with integer capacities between any hashable nodes."""

    capacities: dict[Hashable, dict[Hashable, int]] = field(default_factory=dict)

    def connect(self, start: Hashable, end: Hashable, capacity: int) -> None:
        """Add an edge, or capacity to one."""
        if start == end:
            return
        edges = self.capacities.setdefault(start, {})
        edges[end] = edges.get(end, 0) + capacity
        self.capacities.setdefault(end, {}).setdefault(start, 0)


def source_side(network: Network, source: Hashable, sink: Hashable) -> set[Hashable]:
    """Return the fewest nodes that a smallest cut leaves with `source`; the network's capacities are used up.

    Augments along shortest paths (Edmonds and Karp 1972), so it takes at most one search for each unit of the cut.
    """
    while True:
        before: dict[Hashable, Hashable] = {source: source}
        queue = deque([source])
        while queue and sink not in before:
            node = queue.popleft()
            for following, left in network.capacities.get(node, {}).items():
                if left > 0 and following not in before:
                    before[following] = node
                    queue.append(following)
        if sink not in before:
            return set(before)
        path = [sink]
        while path[-1] != source:
            path.append(before[path[-1]])
        steps = [(start, end) for end, start in pairwise(path)]
        amount = min(network.capacities[start][end] for start, end in steps)
        for start, end in steps:
            network.capacities[start][end] -= amount
            network.capacities[end][start] += amount
