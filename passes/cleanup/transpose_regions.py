"""Regions of operators that commute with Transpose, and which part to turn so that the fewest Transposes are left."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.base import node_label
from passes.cleanup.axis_moves import TRANSPARENT, Moved, Perm, absorbed, inverse
from passes.cleanup.minimum_cut import UNLIMITED, Network
from passes.dimensions import Dim
from passes.matching import SMALL_BYTES, constant_tensor, integers, is_op, rank_of
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

_TURNED, _LEFT = "turned", "left"


@dataclass(slots=True)
class Region:
    """Nodes of one graph that share values whose axes they keep apart. values: those, in the order of the graph."""

    nodes: list[ir.Node] = field(default_factory=list)
    values: dict[ir.Value, None] = field(default_factory=dict)

    def permutations(self) -> list[Perm]:
        """Return the orders of axes worth trying: those that a Transpose at the edge would be saved by."""
        found: dict[Perm, None] = {}
        for value in self.values:
            made = transposed_by(value)
            if made is not None:
                found[made] = None
            for reader in value.consumers():
                perm = integers(reader, "perm") if is_op(reader, "Transpose") else None
                if perm is not None:
                    found[inverse(perm)] = None
        return [perm for perm in found if perm != tuple(range(len(perm)))]


def transposed_by(value: ir.Value) -> Perm | None:
    """Return the permutation of the Transpose that makes `value`, or None."""
    node = value.producer()
    return integers(node, "perm") if node is not None and is_op(node, "Transpose") else None


def operands(node: ir.Node, facts: ShapeFacts) -> list[tuple[int, ir.Value]]:
    """Return the inputs whose axes are those of the output, by place: no constants, and nothing of one element."""
    count = 1 if TRANSPARENT[node.op_type].first else len(node.inputs)
    found = []
    for place, value in enumerate(node.inputs[:count]):
        if value is None or constant_tensor(value) is not None:
            continue
        dims = facts.shape(value)
        if dims is None or any(dim != Dim(1) for dim in dims):
            found.append((place, value))
    return found


def why_fixed(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    """Return how `node` is written when its axes move, or why it cannot be."""
    if node.domain != "" or any(rank_of(value) != len(perm) for _, value in operands(node, facts)):
        return "an operand has fewer axes"
    kind = TRANSPARENT[node.op_type]
    for value in () if kind.first else node.inputs:
        tensor = constant_tensor(value)
        if value is not None and tensor is not None and tensor.size > 1 and tensor.nbytes > SMALL_BYTES:
            return f"the constant '{value.name}' of {tensor.nbytes:,} bytes is too large to be transposed"
    return kind.move(node, perm, facts)


def regions(graph: ir.Graph | ir.Function, facts: ShapeFacts) -> Iterator[Region]:
    """Yield the largest regions of one graph that a Transpose touches."""
    leader: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        while leader.setdefault(value, value) is not value:
            leader[value] = leader[leader[value]]
            value = leader[value]
        return value

    members: list[tuple[ir.Node, list[ir.Value]]] = []
    for node in graph:
        kind = TRANSPARENT.get(node.op_type) if node.domain == "" else None
        if kind is None:
            continue
        rank = rank_of(node.outputs[0])
        read = [value for _, value in operands(node, facts)]
        if rank is None or rank < 2 or not read:
            continue
        values = [*read, *(output for output in node.outputs if rank_of(output) == rank)]
        members.append((node, values))
        for value in values[1:]:
            leader[root(value)] = root(values[0])
    found: dict[ir.Value, Region] = {}
    for node, values in members:
        region = found.setdefault(root(values[0]), Region())
        region.nodes.append(node)
        region.values.update(dict.fromkeys(values))
    yield from found.values()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which nodes to turn. saved: how many Transposes fewer are left."""

    nodes: dict[ir.Node, Moved]
    saved: int
    refused: tuple[tuple[ir.Node, str], ...] = ()


def best_choice(region: Region, perm: Perm, facts: ShapeFacts) -> Choice:
    """Return the nodes to write for the order before the Transpose by `perm`, by a smallest cut.

    Each value exists in one or both orders; an order that no reader or producer gives by itself costs a Transpose.
    """
    moved: dict[ir.Node, Moved] = {}
    refused = []
    for node in region.nodes:
        change = why_fixed(node, perm, facts)
        if isinstance(change, Moved):
            moved[node] = change
        elif any(transposed_by(value) == perm for value in node.inputs if value is not None):
            refused.append((node, f"{node_label(node)}: {change}"))
    places = {node: frozenset(place for place, _ in operands(node, facts)) for node in moved}
    terms = [_Term.of(value, perm, places, region.values, facts) for value in region.values]
    network = Network()
    for term in terms:
        term.connect(network)
    turned = network.source_side(_TURNED, _LEFT)
    if turned is None:
        refused.append((region.nodes[0], "its region is too large to tell which part to turn"))
        return Choice({}, 0, tuple(refused))
    chosen = {node: change for node, change in moved.items() if node in turned}
    before, after = (sum(term.cost(nodes) for term in terms) for nodes in ({}, chosen))
    return Choice(chosen, before - after, tuple(refused))


@dataclass(frozen=True, slots=True)
class _Term:
    """What one value costs. makers: what gives it as it is, and in the other order: a node, or one of the two sides."""

    value: ir.Value
    makers: tuple[Hashable, Hashable]
    readers: tuple[Hashable, ...]

    @classmethod
    def of(
        cls,
        value: ir.Value,
        perm: Perm,
        places: dict[ir.Node, frozenset[int]],
        inside: Container[ir.Value],
        facts: ShapeFacts,
    ) -> _Term:
        """Return the term; a reader on the left side wants the value as it is, one on the turned side the other.

        places: by each node that may be turned, the inputs that turn with it. inside: the region's values; a Transpose
        that makes one of them is counted there, not where it reads.
        """
        readers: list[Hashable] = [_LEFT] if value.is_graph_output() else []
        back = inverse(perm)
        for reader, place in value.uses():
            if place in places.get(reader, ()):
                readers.append(reader)
            elif reader.graph is value.graph and is_op(reader, "Transpose"):
                wanted = [_TURNED] if integers(reader, "perm") == back and reader.outputs[0] not in inside else []
                readers.extend(wanted if transposed_by(value) is None else [_LEFT])
            elif reader.graph is not value.graph or absorbed(reader, place, perm, facts) is None:
                readers.append(_LEFT)
        producer, made = value.producer(), transposed_by(value)
        if producer in places:
            return cls(value, (producer, producer), tuple(readers))
        if made is None:
            return cls(value, (_LEFT, _LEFT), tuple(readers))
        # a Transpose by the same order gives the other order for nothing; by another, both cost one
        return cls(value, (_TURNED, _TURNED if made == perm else _LEFT), tuple(readers))

    def connect(self, network: Network) -> None:
        straight, turned = ("as it is", self.value), ("turned", self.value)
        network.connect(self.makers[0], straight, 1)
        network.connect(turned, self.makers[1], 1)
        for reader in self.readers:
            network.connect(straight, reader, UNLIMITED)
            network.connect(reader, turned, UNLIMITED)

    def cost(self, chosen: dict[ir.Node, Moved]) -> int:
        """Return how many Transposes make this value what its readers want."""
        wants = {reader == _TURNED or reader in chosen for reader in self.readers}
        straight, other = (maker == _TURNED or maker in chosen for maker in self.makers)
        return int(False in wants and straight) + int(True in wants and not other)
