"""Types and ranks from onnx's own shape inference, for graphs that state none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

UNKNOWN_PREFIX = "unk__"
"""How the names begin that onnx gives dimensions it knows nothing of."""


def fill_in_types(model: ir.Model) -> None:
    """Copy the types and shapes that onnx infers into values that have none; onnx sees the model without weights."""
    import onnx

    from passes.serialization import proto_without_weights

    try:
        proto = onnx.shape_inference.infer_shapes(proto_without_weights(model), data_prop=True)
    except Exception:  # a graph that onnx cannot infer keeps what it states
        return
    _copy(proto.graph, model.graph)


def _copy(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    import onnx_ir as ir

    inferred = {info.name: info for info in (*proto.value_info, *proto.output)}
    for described, node in zip(proto.node, graph, strict=True):
        for value in node.outputs:
            info = inferred.get(value.name or "")
            if info is None:
                continue
            if value.type is None:
                value.type = ir.serde.deserialize_type_proto_for_type(info.type)
            if value.shape is None:
                value.shape = _without_invented(ir.serde.deserialize_type_proto_for_shape(info.type))
        for attribute in described.attribute:
            inner = node.attributes[attribute.name].value if attribute.name in node.attributes else None
            if isinstance(inner, ir.Graph):
                _copy(attribute.g, inner)
            elif isinstance(inner, (tuple, list)) and attribute.graphs:
                for part, subgraph in zip(attribute.graphs, inner, strict=True):
                    _copy(part, subgraph)


def _without_invented(shape: ir.Shape | None) -> ir.Shape | None:
    """Return the shape without the names that onnx gives unknown dimensions: another run gives other ones."""
    import onnx_ir as ir

    if shape is None:
        return None
    names = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in shape]
    return ir.Shape([None if isinstance(dim, str) and dim.startswith(UNKNOWN_PREFIX) else dim for dim in names])
