"""Questions about a graph that patterns ask: is this constant, who reads it, what does that attribute say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

SMALL_BYTES = 65536
"""Constants up to this size may be read to decide whether a pattern matches; larger ones are weights."""

FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
"""The types that operators of floating-point arithmetic, such as Gemm and Sum, take."""

_CONSTANT_ATTRIBUTES = ("value", "value_float", "value_floats", "value_int", "value_ints", "value_string")


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Return whether `node` is one of these standard operators."""
    return node is not None and node.domain == "" and node.op_type in op_types


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operator set that the model imports."""
    return model.opset_imports.get("", 0)


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node, unread; None for anything that can vary.

    An initializer that is also a graph input is a default that the caller may override, so it is not constant.
    """
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    producer = value.producer()
    if producer is None or not is_op(producer, "Constant"):
        return None
    return tensor_of_constant(producer)


def tensor_of_constant(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the tensor that a Constant node yields; None for sparse tensors, string lists and references."""
    import numpy as np
    import onnx_ir as ir

    for name, attribute in node.attributes.items():
        if attribute.is_ref() or name not in _CONSTANT_ATTRIBUTES:
            return None
        if name == "value":
            tensor: ir.TensorProtocol = attribute.value  # as_tensor() asks a runtime protocol, which takes far longer
            return tensor
        if name == "value_string":
            return ir.StringTensor([attribute.as_string().encode()], shape=ir.Shape([]))
        dtype = np.float32 if "float" in name else np.int64
        return ir.Tensor(np.array(attribute.value, dtype=dtype))
    return None


def constant_array(value: ir.Value | None, *, max_bytes: int = SMALL_BYTES) -> np.ndarray | None:
    """Return the constant as an array, or None if it varies or is larger than `max_bytes`."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.nbytes > max_bytes:
        return None
    return tensor.numpy()


def constant_number(value: ir.Value | None) -> float | None:
    """Return the number that a one-element numeric constant holds, or None."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype.is_string():
        return None
    return float(tensor.numpy().reshape(-1)[0])


def raised_rank(nodes: Iterable[ir.Node], value: ir.Value, *, rank: int | None) -> str:
    """Return why these nodes may yield a higher rank than `value` has; empty when they keep it.

    A pattern reads a constant of shape [1, 1] as a number, but x * [[c]] has two axes where x has one.
    """
    for node in nodes:
        for operand in node.inputs:
            tensor = constant_tensor(operand)
            if operand is None or tensor is None or tensor.size != 1:
                continue
            own = len(tensor.shape)
            if own > (rank or 0):
                known = "an unknown one" if rank is None else str(rank)
                return f"the constant '{operand.name}' has rank {own}, '{value.name}' {known}"
    return ""


def constant_integers(value: ir.Value | None) -> list[int] | None:
    """Return the elements of a small integer constant of rank 0 or 1, or None."""
    array = constant_array(value)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return [int(element) for element in array.reshape(-1)]


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def number(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return an attribute of integers, or None where it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def text(node: ir.Node, name: str, default: str) -> str:
    """Return a string attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def has_reference(node: ir.Node) -> bool:
    """Return whether an attribute is a function's parameter, whose value is known only at the call."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that makes `value` when it is one of these standard operators."""
    node = None if value is None else value.producer()
    return node if is_op(node, *op_types) else None


def other_readers(value: ir.Value, *nodes: ir.Node) -> str:
    """Return why the value cannot vanish: "output 'y' also feeds Relu_3"; empty when only `nodes` read it."""
    from passes.base import node_label

    if value.is_graph_output():
        return f"'{value.name}' is an output of the graph"
    others = [node_label(reader) for reader in value.consumers() if reader not in nodes]
    return f"output '{value.name}' also feeds {', '.join(others[:3])}" if others else ""


def first_shared(chain: Iterable[ir.Node], last: ir.Node) -> str:
    """Return why a chain of nodes ending in `last` cannot be replaced as one; empty when no inner value is shared.

    A node in the graph around a subgraph stays there: in a loop it would be computed at each trip.
    """
    nodes = (*chain, last)
    for node in nodes[:-1]:
        if node.graph is not last.graph:
            return f"'{node.outputs[0].name}' is made in another graph"
        for output in node.outputs:
            reason = other_readers(output, *nodes)
            if reason:
                return reason
    return ""


def operand_pairs(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the two operands of a commutative node in both orders."""
    first, second = input_at(node, 0), input_at(node, 1)
    if first is None or second is None:
        return
    yield first, second
    yield second, first


def with_constant(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return the varying operand and the one-element constant of a commutative node, or None."""
    for varying, fixed in operand_pairs(node):
        found = constant_number(fixed)
        if found is not None and constant_tensor(varying) is None:
            return varying, found
    return None


def dims_of(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Return the dimensions: an integer, a symbol's name, or None for unknown; None for an unknown rank."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape.dims)


def rank_of(value: ir.Value | None) -> int | None:
    """Return the rank, or None where it is unknown."""
    return None if value is None or value.shape is None else value.shape.rank()


def is_known(dims: tuple[int | str | None, ...] | None) -> bool:
    """Return whether every dimension is an integer or a symbol."""
    return dims is not None and all(dim is not None for dim in dims)
