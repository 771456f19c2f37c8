"""Why the parser refused a model: every node at fault, found by parsing the nodes one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.base import node_label
from passes.errors import Blocker
from targets.tensorrt.session import Session, open_session

if TYPE_CHECKING:
    import onnx_ir as ir

_WEIGHTS_KEPT_BYTES = 64 << 20
_UNSPECIFIC = ("", "false")
# Alone, these lack what makes them legal: a constant from elsewhere, or the partner of a quantization pair.
_NOT_TRIED_ALONE = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant", "ConstantOfShape"})


def blockers_from_parser(session: Session, path: Path) -> list[Blocker]:
    """Return what the failed parse of `path` reported, and every other node that the parser refuses on its own.

    The parser stops at the first bad node, and TensorRT for RTX then calls every subgraph unsupported: its own list
    names one fault at most.
    """
    reported = [_blocker_from_error(session.parser.get_error(index)) for index in range(session.parser.num_errors)]
    seen = {(blocker.node, blocker.operator) for blocker in reported}
    alone = [blocker for blocker in _refused_alone(session.trt, path) if (blocker.node, blocker.operator) not in seen]
    return list(dict.fromkeys(reported + alone))


def _blocker_from_error(error: Any) -> Blocker:
    code = error.code().name
    text = error.desc().strip()
    reason = code if text in _UNSPECIFIC else f"{code}: {text}"
    return Blocker(error.node_name() or "(unnamed)", error.node_operator() or "(model)", reason)


def _refused_alone(trt: Any, path: Path) -> list[Blocker]:
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    model = ir.load(path)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found: list[Blocker] = []
    for node in model.graph:
        if node.op_type in _NOT_TRIED_ALONE:
            continue
        piece = _model_of(node, model)
        if piece is None:
            continue
        session = open_session(trt)
        if session.parser.parse(piece):
            continue
        for index in range(session.parser.num_errors):
            error = session.parser.get_error(index)
            if error.code().name.startswith("UNSUPPORTED"):
                found.append(_named(_blocker_from_error(error), node))
                break
    return found


def _named(blocker: Blocker, node: ir.Node) -> Blocker:
    return Blocker(node_label(node), node.op_type, blocker.reason)


def _model_of(node: ir.Node, model: ir.Model) -> bytes | None:
    """Return a serialized model of this node alone, or None when a type is unknown or it reads an outer graph."""
    import onnx_ir as ir

    values: dict[str, ir.Value] = {}
    inputs: list[ir.Value] = []
    initializers: list[ir.Value] = []
    for value in node.inputs:
        if value is None or value.name in values:
            continue
        copy = ir.Value(name=value.name, shape=value.shape, type=value.type)
        constant = ir.convenience.get_const_tensor(value)
        if constant is not None and constant.nbytes <= _WEIGHTS_KEPT_BYTES:
            copy.const_value = constant
            copy.type = ir.TensorType(constant.dtype)
            copy.shape = ir.Shape(constant.shape.numpy())
            initializers.append(copy)
        elif value.type is None or value.shape is None:
            return None
        else:
            inputs.append(copy)
        values[str(value.name)] = copy
    if any(value.name and value.type is None for value in node.outputs):
        return None
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return None
    outputs = [ir.Value(name=value.name, shape=value.shape, type=value.type) for value in node.outputs if value.name]
    lone = ir.Node(
        node.domain,
        node.op_type,
        [values[str(value.name)] if value is not None else None for value in node.inputs],
        list(node.attributes.values()),
        outputs=outputs,
        name=node.name,
    )
    graph = ir.Graph(inputs, outputs, nodes=[lone], initializers=initializers, opset_imports=dict(model.opset_imports))
    serialized: bytes = ir.to_proto(ir.Model(graph, ir_version=model.ir_version)).SerializeToString()
    return serialized
