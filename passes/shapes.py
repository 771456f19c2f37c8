"""What is known about shapes: fills in missing dimensions of a model, and follows tensors that hold dimensions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.content import Content
from passes.dimensions import Dim, Dims, dim_from, plain, unnamed
from passes.matching import constant_array, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

_TRACKED_ELEMENTS = 64


@dataclass(slots=True)
class ShapeFacts:
    """Shapes and contents by value, gathered in one sweep over the graph."""

    shapes: dict[ir.Value, Dims] = field(default_factory=dict)
    contents: dict[ir.Value, Content] = field(default_factory=dict)

    def shape(self, value: ir.Value | None) -> Dims | None:
        """Return the dimensions, or None for an unknown rank."""
        if value is None:
            return None
        if value not in self.shapes:
            declared = declared_shape(value)
            if declared is None:
                return None
            self.shapes[value] = _named(value, declared)
        return self.shapes[value]

    def content(self, value: ir.Value | None) -> Content | None:
        """Return the elements of a small integer tensor, where they are known."""
        if value is None:
            return None
        if value not in self.contents:
            array = constant_array(value, max_bytes=8 * _TRACKED_ELEMENTS)
            if array is None or array.dtype.kind not in "iub" or array.ndim > 1 or array.size > _TRACKED_ELEMENTS:
                return None
            self.contents[value] = Content(tuple(Dim(int(element)) for element in array.reshape(-1)), array.ndim == 0)
        return self.contents[value]


def declared_shape(value: ir.Value) -> Dims | None:
    """Return the shape that the model states for a value, or that its constant has."""
    if value.const_value is not None and value.is_initializer():
        return tuple(dim_from(dim) for dim in value.const_value.shape.numpy())
    dims = dims_of(value)
    if dims is None:
        return None
    # names that onnx's inference invents say only "unknown"
    return tuple(None if isinstance(dim, str) and dim.startswith("unk__") else dim_from(dim) for dim in dims)


def infer_shapes(model: ir.Model) -> ShapeFacts:
    """Fill in missing types and dimensions in place, and return all that is known. No weight is read.

    A stated dimension is never changed. Types and ranks that are missing come from onnx's inference.
    """
    from passes.shape_rules import infer_node

    if _lacks_types(model):
        _infer_with_onnx(model)
    facts = ShapeFacts()
    for graph in model.graphs():
        for node in graph:
            infer_node(node, facts)
            for output in node.outputs:
                _write(output, facts)
    return facts


def _named(value: ir.Value, dims: Dims) -> Dims:
    """Return the shape with a symbol of its own for each unknown dimension, so that it can be followed."""
    return tuple(dim or unnamed(str(value.name), axis) for axis, dim in enumerate(dims))


def _write(value: ir.Value, facts: ShapeFacts) -> None:
    import onnx_ir as ir

    inferred = facts.shapes.get(value)
    declared = declared_shape(value)
    if inferred is None or (declared is not None and len(declared) != len(inferred)):
        if declared is not None:
            facts.shapes[value] = _named(value, declared)
        return
    merged = inferred if declared is None else tuple(own or new for own, new in zip(declared, inferred, strict=True))
    facts.shapes[value] = _named(value, merged)
    if dims_of(value) != tuple(map(plain, merged)):
        value.shape = ir.Shape([plain(dim) for dim in merged])


def _lacks_types(model: ir.Model) -> bool:
    return any(
        value.name and (value.type is None or value.shape is None)
        for graph in model.graphs()
        for node in graph
        for value in node.outputs
    )


def _infer_with_onnx(model: ir.Model) -> None:
    """Copy the types and shapes that onnx infers into values that have none; onnx sees the model without weights."""
    import onnx
    import onnx_ir as ir

    from passes.serialization import proto_without_weights

    try:
        proto = onnx.shape_inference.infer_shapes(proto_without_weights(model), data_prop=True)
    except Exception:  # a graph that onnx cannot infer keeps what it states
        return
    inferred = {info.name: info for info in (*proto.graph.value_info, *proto.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            info = inferred.get(value.name or "")
            if info is None:
                continue
            if value.type is None:
                value.type = ir.serde.deserialize_type_proto_for_type(info.type)
            if value.shape is None:
                value.shape = ir.serde.deserialize_type_proto_for_shape(info.type)
