"""What a graph does with each of its inputs: reads it as an index, a mask or a length, and within which range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from passes.matching import constant_array, constant_number, constant_tensor, dims_of, input_at, integer, is_op

if TYPE_CHECKING:
    import onnx_ir as ir

Kind = Literal["value", "index", "mask", "length", "size"]

_VIEWS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Slice", "Tile",
          "Gather", "Concat", "Pad", "Split")  # fmt: skip
"""Operators whose result holds elements of their first input (any input, for Concat)."""

_INDEX_INPUTS: dict[str, tuple[int, ...]] = {
    "Gather": (1,), "GatherElements": (1,), "GatherND": (1,), "ScatterElements": (1,), "Scatter": (1,),
    "ScatterND": (1,), "OneHot": (0,), "RotaryEmbedding": (3,),
}  # fmt: skip
_SIZE_INPUTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "TopK": (1,), "Range": (0, 1, 2),
    "Resize": (3,), "Split": (1,), "Loop": (0,),
}  # fmt: skip
_COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
_LARGE = 1e3
"""A finite constant at least this large, or an infinite one, hides what is masked."""


@dataclass(slots=True)
class Role:
    """How one input is used. An index lies in low..high; None is open."""

    kind: Kind = "value"
    low: int | None = None
    high: int | None = None

    def is_index(self, low: float, high: float) -> None:
        """Narrow the range to what one more index allows."""
        self.kind = "index"
        self.low = max(math.ceil(low), self.low if self.low is not None else -(2**31))
        self.high = min(math.floor(high), self.high if self.high is not None else 2**31)

    def may_be(self, kind: Kind) -> None:
        """Note a use that binds less than an index does: a size over a mask, a mask over a length."""
        order = ("value", "length", "mask", "size", "index")
        if order.index(kind) > order.index(self.kind):
            self.kind = kind


@dataclass(frozen=True, slots=True)
class _Path:
    """`scale * input + shift`: what a value holds of an input."""

    name: str
    scale: float = 1.0
    shift: float = 0.0


@dataclass(slots=True)
class _Walk:
    roles: dict[str, Role]
    paths: dict[ir.Value, tuple[_Path, ...]] = field(default_factory=dict)


def input_roles(model: ir.Model) -> dict[str, Role]:
    """Return the role of each input of the main graph that is no default of an initializer, from all its consumers.

    Values are followed through views, casts and arithmetic with constants, into subgraphs too.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    walk = _Walk({str(value.name): Role() for value in inputs})
    walk.paths = {value: (_Path(str(value.name)),) for value in inputs}
    for node in _nodes(model.graph):
        _use(node, walk)
        kept = tuple(dict.fromkeys(_followed(node, walk)))
        if kept:
            for output in node.outputs:
                walk.paths[output] = kept
    return walk.roles


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type.name == "GRAPH" and not attribute.is_ref():
                yield from _nodes(attribute.as_graph())
        yield node


def _paths(walk: _Walk, value: ir.Value | None) -> tuple[_Path, ...]:
    return walk.paths.get(value, ()) if value is not None else ()


def _followed(node: ir.Node, walk: _Walk) -> Iterator[_Path]:
    """Yield what the outputs of `node` hold of the inputs."""
    if is_op(node, *_VIEWS):
        for value in node.inputs if is_op(node, "Concat") else node.inputs[:1]:
            yield from _paths(walk, value)
    elif is_op(node, "Where"):
        for value in node.inputs[1:]:
            yield from _paths(walk, value)
    elif is_op(node, "Neg"):
        for path in _paths(walk, node.inputs[0]):
            yield _Path(path.name, -path.scale, -path.shift)
    elif is_op(node, "Add", "Sub", "Mul") and len(node.inputs) == 2:
        for index in (0, 1):
            number = constant_number(node.inputs[1 - index])
            for path in _paths(walk, node.inputs[index]) if number is not None else ():
                assert number is not None
                if is_op(node, "Mul"):
                    yield _Path(path.name, path.scale * number, path.shift * number)
                elif is_op(node, "Add"):
                    yield _Path(path.name, path.scale, path.shift + number)
                elif index == 0:
                    yield _Path(path.name, path.scale, path.shift - number)
                else:
                    yield _Path(path.name, -path.scale, number - path.shift)


def _use(node: ir.Node, walk: _Walk) -> None:
    """Note what `node` demands of the inputs that it reads."""
    if node.domain not in ("", "com.microsoft"):
        return
    for index in _INDEX_INPUTS.get(node.op_type, ()):
        length = _indexed_length(node)
        for path in _paths(walk, input_at(node, index)):
            if length is None or not path.scale:
                walk.roles[path.name].may_be("index")
                continue
            ends = sorted(((0 - path.shift) / path.scale, (length - 1 - path.shift) / path.scale))
            walk.roles[path.name].is_index(*ends)
    for index in _SIZE_INPUTS.get(node.op_type, ()):
        for path in _paths(walk, input_at(node, index)):
            walk.roles[path.name].may_be("size")
    if is_op(node, "Where", "If", "Not", "And", "Or"):
        for path in _paths(walk, node.inputs[0]):
            walk.roles[path.name].may_be("mask")
    if is_op(node, "Cast") and node.outputs[0].dtype is not None and node.outputs[0].dtype.name == "BOOL":
        for path in _paths(walk, node.inputs[0]):
            walk.roles[path.name].may_be("mask")
    if is_op(node, *_COMPARISONS):
        for index in (0, 1):
            number = constant_number(node.inputs[1 - index])
            for path in _paths(walk, node.inputs[index]):
                walk.roles[path.name].may_be("mask" if number in (0.0, 0.5, 1.0) else "length")
    if is_op(node, "Mul", "Where"):
        for value in node.inputs:
            number = constant_number(value)
            if number is not None and (math.isinf(number) or number <= -_LARGE):
                for other in node.inputs:
                    for path in _paths(walk, other) if is_op(node, "Mul") else ():
                        walk.roles[path.name].may_be("mask")


def _indexed_length(node: ir.Node) -> int | None:
    """Return how long the axis is that a node's index runs over; None where that is not a number."""
    if is_op(node, "OneHot"):
        depth = constant_array(node.inputs[1])
        return None if depth is None else int(depth.reshape(-1)[0])
    position = 1 if node.op_type == "RotaryEmbedding" else 0
    if node.op_type == "RotaryEmbedding" and node.domain:
        return None
    table = constant_tensor(input_at(node, position))
    dims = dims_of(input_at(node, position)) if table is None else tuple(table.shape.numpy())
    if dims is None:
        return None
    axis = 0 if is_op(node, "RotaryEmbedding", "GatherND", "ScatterND") else integer(node, "axis", 0)
    length = dims[axis] if -len(dims) <= axis < len(dims) else None
    if is_op(node, "GatherND", "ScatterND") and integer(node, "batch_dims", 0) == 0:
        known = [dim for dim in dims if isinstance(dim, int)]
        index = dims_of(node.inputs[1])
        last = index[-1] if index else None
        length = min(known[:last]) if isinstance(last, int) and len(known) == len(dims) and last else None
    return length if isinstance(length, int) else None
