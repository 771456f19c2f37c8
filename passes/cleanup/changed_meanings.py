"""What onnx's converters get wrong between operator sets: refused beforehand, or put right afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.base import node_label
from passes.matching import constant_array, dims_of, input_at, integer, is_op, opset_of, rank_of, text
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


def why_not_converted(model: ir.Model, target: int) -> str:
    """Return why the model would mean something else, or would not load, in opset `target`; empty when neither."""
    opset = opset_of(model)
    changed = [
        node for graph in model.graphs() for node in graph if is_op(node, *_CHECKS) and _is_between(node, opset, target)
    ]
    if changed:
        infer_shapes(model)  # the type of a Clip and the channels of a GroupNormalization may not be stated
    for node in changed:
        reason = _CHECKS[node.op_type][1](node)
        if reason:
            return f"{node_label(node)}: {reason}"
    return ""


def _is_between(node: ir.Node, opset: int, target: int) -> bool:
    return opset < _CHECKS[node.op_type][0] <= target


def _hardmax(node: ir.Node) -> str:
    axis, rank = integer(node, "axis", 1), rank_of(node.inputs[0])
    is_last = axis == -1 or (rank is not None and axis == rank - 1)
    return "" if is_last else "Hardmax before opset 13 flattens the axes from its own on"


def _dropout(node: ir.Node) -> str:
    is_read = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    return "the mask of Dropout before opset 12 has other elements" if is_read else ""


def _clip(node: ir.Node) -> str:
    value = node.inputs[0]
    has_bounds = "min" in node.attributes or "max" in node.attributes
    is_float = value is not None and value.dtype is not None and value.dtype.name == "FLOAT"
    return "the converter makes float bounds, which its input may not be" if has_bounds and not is_float else ""


def _resize(node: ir.Node) -> str:
    scales = constant_array(input_at(node, 1))
    if text(node, "mode", "nearest") != "nearest" or (is_op(node, "Upsample") and scales is None):
        return ""  # Upsample never makes its input smaller
    if scales is None:
        return "which element was nearest before opset 11 depends on scales that are not constant"
    is_exact = all(factor >= 1 or (1 / factor).is_integer() for factor in scales.reshape(-1).tolist())
    return "" if is_exact else "which element is nearest was not defined before opset 11 for such scales"


def _group_norm(node: ir.Node) -> str:
    data, scale = dims_of(node.inputs[0]), dims_of(input_at(node, 1))
    if data is None or scale is None or not isinstance(data[1], int) or not isinstance(scale[0], int):
        return "GroupNormalization before opset 21 scales groups; the number of channels is not known"
    return ""


def _no_kernel(node: ir.Node) -> str:
    return f"ONNX Runtime has no kernel for {node.op_type} of opset {_CHECKS[node.op_type][0]}"


_CHECKS = {
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "GroupNormalization": (21, _group_norm),
    "Hardmax": (13, _hardmax),
    "Resize": (11, _resize),
    "Upsample": (11, _resize),
    # only their types are others in opset 22, yet the runtime (1.32) takes the older version alone
    "GlobalLpPool": (22, _no_kernel),
    "MaxRoiPool": (22, _no_kernel),
    "Multinomial": (22, _no_kernel),
    "RandomNormal": (22, _no_kernel),
    "RandomNormalLike": (22, _no_kernel),
    "RandomUniform": (22, _no_kernel),
    "RandomUniformLike": (22, _no_kernel),
    "RoiAlign": (22, _no_kernel),
}
"""By operator: the opset that changed it, and what tells why a node cannot follow."""


def state_defaults(graph: ir.Graph, opset: int) -> None:
    """Write out what was so by default in `opset`, in a graph that a converter made of it without saying it."""
    import onnx_ir as ir

    for node in graph.all_nodes():
        if is_op(node, "Resize") and opset < 11:
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
            node.attributes.add(ir.AttrString("nearest_mode", "floor"))
        if is_op(node, "Hardmax") and opset < 13:
            node.attributes.add(ir.AttrInt64("axis", -1))
