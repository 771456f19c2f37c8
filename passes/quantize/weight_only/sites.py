"""Where a graph multiplies by a constant matrix or looks rows up in one, and which of its axes the blocks run along."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from passes.matching import constant_tensor, integer, integers, is_op, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

Role = Literal["product", "head", "embedding"]

LEAST_ELEMENTS = 1024
"""Smaller weights stay in float: a block's scale and the unpacking cost more than the codes save."""

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")


@dataclass(frozen=True, slots=True)
class Use:
    """A node that reads a weight at one of its inputs. `axis` is the weight's axis that the node sums over."""

    node: ir.Node
    index: int
    axis: int
    role: Role
    source: ir.Value | None
    """What the weight multiplies; None for a table of embeddings."""


@dataclass(slots=True)
class Site:
    """A constant weight of rank 2 with all its uses; `other` is a reader that takes no quantized weight."""

    value: ir.Value
    tensor: ir.TensorProtocol
    uses: list[Use] = field(default_factory=list)
    other: ir.Node | None = None

    @property
    def axis(self) -> int:
        return self.uses[0].axis

    @property
    def rows(self) -> int:
        """K, the length of the axis that is summed over."""
        return int(self.tensor.shape.numpy()[self.axis])

    @property
    def columns(self) -> int:
        return int(self.tensor.shape.numpy()[1 - self.axis])

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset(use.role for use in self.uses)

    def problem(self) -> str:
        """Return why this weight can't be quantized whatever the runtime is, or nothing; its content is not read."""
        if self.other is not None:
            from passes.base import node_label

            return f"its weight '{self.value.name}' is also read by {self.other.op_type} '{node_label(self.other)}'"
        if self.value.is_graph_output():
            return f"its weight '{self.value.name}' is an output of the graph"
        if self.tensor.dtype.name not in _FLOATS:
            return f"its weight '{self.value.name}' is {self.tensor.dtype.name.lower()}, not float"
        if len({use.axis for use in self.uses}) > 1:
            return f"its weight '{self.value.name}' is summed over along both axes"
        if len({node.graph for node in (*(use.node for use in self.uses), *self.value.consumers())}) > 1:
            return f"its weight '{self.value.name}' is read in several graphs"
        if self.tensor.size < LEAST_ELEMENTS:
            return f"its weight '{self.value.name}' has only {self.tensor.size} elements"
        return ""


def find_sites(model: ir.Model) -> tuple[list[Site], list[tuple[ir.Node, str]]]:
    """Return every matrix that could be quantized, in graph order, and the near matches with their reasons."""
    sites: dict[ir.Value, Site] = {}
    near: list[tuple[ir.Node, str]] = []
    heads = _heads(model)
    for graph in model.graphs():
        for node in graph:
            found = _use(node, is_head=node in heads)
            if isinstance(found, str):
                near.append((node, found))
            elif found is not None:
                weight, use = found
                tensor = constant_tensor(weight)
                assert tensor is not None
                sites.setdefault(weight, Site(weight, tensor)).uses.append(use)
    for site in sites.values():
        known = {(use.node, use.index) for use in site.uses}
        for reader, index in site.value.uses():
            if (reader, index) not in known and not _feeds_only(reader, known):
                site.other = reader
    return list(sites.values()), near


def _use(node: ir.Node, *, is_head: bool) -> tuple[ir.Value, Use] | str | None:
    """Return the weight that `node` reads and how; the reason for a near match; None for any other node."""
    role: Role = "head" if is_head else "product"
    if is_op(node, "Gather"):
        table = node.inputs[0]
        tensor = constant_tensor(table)
        if table is None or tensor is None or tensor.dtype.name not in _FLOATS or len(tensor.shape) != 2:
            return None
        if integer(node, "axis", 0) != 0:
            return f"it takes columns of '{table.name}', and a block has entries of several"
        return table, Use(node, 0, 1, "embedding", None)
    if not is_op(node, "MatMul", "Gemm"):
        return None
    if constant_tensor(node.inputs[0]) is not None:
        return "its constant is on the left"
    weight = node.inputs[1]
    axis = 1 if is_op(node, "Gemm") and integer(node, "transB", 0) else 0
    transpose = producer_of(weight, "Transpose")
    if transpose is not None and constant_tensor(transpose.inputs[0]) is not None:
        if integers(transpose, "perm") not in (None, (1, 0)) or is_op(node, "Gemm"):
            return f"its weight is transposed by '{transpose.name}'"
        weight, axis = transpose.inputs[0], 1
    tensor = constant_tensor(weight)
    if weight is None or tensor is None:
        return None if weight is None else _why_not_constant(weight)
    if len(tensor.shape) != 2:
        return f"its weight '{weight.name}' has rank {len(tensor.shape)}, not 2"
    return weight, Use(node, 1, axis, role, node.inputs[0])


def _why_not_constant(value: ir.Value) -> str | None:
    """Return why a right operand is no constant weight; None for an activation, as in attention: no near match."""
    if value.is_graph_input() and value.is_initializer():
        return f"its weight '{value.name}' is an input of the graph"
    node = value.producer()
    if node is None or not node.inputs or constant_tensor(node.inputs[0]) is None:
        return None
    return f"its weight is made by {node.op_type} '{node.name}'"


def _feeds_only(reader: ir.Node, known: set[tuple[ir.Node, int]]) -> bool:
    """Return whether `reader` is the Transpose between a weight and products that are known."""
    if not is_op(reader, "Transpose") or reader.outputs[0].is_graph_output():
        return False
    uses = [(use.node, use.idx) for use in reader.outputs[0].uses()]
    return bool(uses) and all(use in known for use in uses)


def _heads(model: ir.Model) -> set[ir.Node]:
    """Return the products after which no other product with a constant weight comes: what makes the logits, mostly."""
    heads: set[ir.Node] = set()
    before: set[ir.Node] = set()  # nodes that a product follows
    for node in reversed(list(model.graph)):
        readers = [use.node for output in node.outputs for use in output.uses()]
        is_followed = any(reader in before or _is_product(reader) for reader in readers)
        if is_followed:
            before.add(node)
        elif _is_product(node):
            heads.add(node)
    return heads


def _is_product(node: ir.Node) -> bool:
    if not is_op(node, "MatMul", "Gemm", "Conv"):
        return False
    weight = node.inputs[1]
    transpose = producer_of(weight, "Transpose")
    return constant_tensor(weight) is not None or (
        transpose is not None and constant_tensor(transpose.inputs[0]) is not None
    )
