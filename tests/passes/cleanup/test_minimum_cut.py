from __future__ import annotations

import itertools
import random

from passes.cleanup.minimum_cut import UNLIMITED, Network

Edges = list[tuple[int, int, int]]


def _network(edges: Edges) -> Network:
    network = Network()
    for start, end, capacity in edges:
        network.connect(start, end, capacity)
    return network


def _capacity(edges: Edges, side: set[int]) -> int:
    return sum(capacity for start, end, capacity in edges if start in side and end not in side)


def _smallest(edges: Edges, nodes: int) -> tuple[int, set[int]]:
    """Return the capacity of a smallest cut between 0 and 1, and what all of them leave with 0."""
    sides = [{0, *inner} for count in range(nodes - 1) for inner in itertools.combinations(range(2, nodes), count)]
    least = min(_capacity(edges, side) for side in sides)
    return least, set.intersection(*(side for side in sides if _capacity(edges, side) == least))


def test_the_cut_is_the_smallest_and_leaves_the_fewest_nodes_with_the_source() -> None:
    chance = random.Random(0)
    for _ in range(400):
        nodes = chance.randint(3, 7)
        edges = [
            (*chance.sample(range(nodes), 2), chance.choice([1, 1, 2, 3, UNLIMITED]))
            for _ in range(chance.randint(1, 14))
        ]
        least, wanted = _smallest(edges, nodes)
        side = _network(edges).source_side(0, 1)
        assert side == wanted, edges
        assert _capacity(edges, side) == least


def test_a_loop_and_a_source_without_edges_cut_nothing() -> None:
    network = Network()
    network.connect("a", "a", 3)
    assert network.source_side("s", "t") == {"s"}


def _ladder(rungs: int) -> Network:
    """A hub that each rung reaches, as tensors that all layers share do, and rungs that follow each other."""
    network = Network()
    network.connect("hub", "left", 1)
    for rung in range(rungs):
        network.connect("turned", ("in", rung), 1)
        network.connect(("in", rung), ("out", rung), UNLIMITED)
        network.connect(("in", rung), "hub", UNLIMITED)
        network.connect(("out", rung), ("in", rung + 1), UNLIMITED)
        network.connect(("out", rung), "left", 1)
    return network


def test_the_searches_do_not_grow_with_the_depth() -> None:
    for rungs in (10, 100, 1000):
        assert _ladder(rungs).source_side("turned", "left", most_searches=4) is not None, rungs


def test_too_many_lengths_of_paths_are_given_up() -> None:
    def staircase(steps: int) -> Network:
        network = Network()
        for step in range(steps):
            network.connect("s" if step == 0 else step, step + 1, UNLIMITED)
            network.connect(step + 1, "t", 1)
        return network

    assert staircase(20).source_side("s", "t", most_searches=10) is None
    assert staircase(20).source_side("s", "t") is not None
    assert staircase(100).source_side("s", "t") is None
