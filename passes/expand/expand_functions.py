"""Operators without a kernel, written out as the standard defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.matching import dims_of, opset_of
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_DOMAIN = "graphwright.expanded"
_DEEPEST = 8


@dataclass(frozen=True)
class ExpandFunctions(Pass):
    """Replace each standard operator that the target has no kernel for by the function body that ONNX defines for it.

    Bodies that depend on the types of the inputs are built for those. What a body uses is expanded in turn where it has
    no kernel either. Refuses an operator without a kernel for which ONNX defines no body, or whose input types are not
    known.
    """

    name: ClassVar[str] = "expand-functions"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        from onnx_ir.passes.common import InlinePass

        recorder = context.recorder(self.name)
        refused: set[ir.Node] = set()
        for _ in range(_DEEPEST):
            wanted = [
                node
                for graph in model.graphs()
                for node in graph
                if node.domain == ""
                and node not in refused
                and not context.capabilities.has_kernel(node.op_type)
                and node.op_type != "Constant"
            ]
            if not wanted:
                break
            infer_shapes(model)
            marked = False
            for index, node in enumerate(wanted):
                marked |= _mark(node, index, model, recorder, refused)
            if not marked:
                break
            InlinePass(criteria=lambda function: function.domain == _DOMAIN)(model)
            for key in [key for key in model.functions if key[0] == _DOMAIN]:
                del model.functions[key]
            model.opset_imports.pop(_DOMAIN, None)
        return recorder.result()


def _mark(node: ir.Node, index: int, model: ir.Model, recorder: Recorder, refused: set[ir.Node]) -> bool:
    """Turn `node` into the call of a function that is its body; returns whether there was one to make."""
    import onnx_ir as ir

    body = _body(node, opset_of(model))
    if isinstance(body, str):
        recorder.refuse(node, body, node.op_type)
        refused.add(node)
        return False
    if not recorder.may_apply(node, node.op_type):
        refused.add(node)
        return False
    _state_defaults(node, opset_of(model))
    del body.output[len(node.outputs) :]
    _complete(body)
    for output in node.outputs:
        output.name = output.name or Editor(model).fresh_name(f"{node.op_type}_unused")
    body.domain, body.name = _DOMAIN, f"{node.op_type}_{index}"
    function = ir.from_proto(body)
    function.opset_imports[""] = opset_of(model)
    node.domain, node.op_type, node.version = _DOMAIN, body.name, None
    model.functions[function.identifier()] = function
    return True


def _complete(body: onnx.FunctionProto) -> None:
    """Give each output that the node leaves out, and that the body lists but does not compute, a constant."""
    import onnx

    computed = {*body.input, *(name for part in body.node for name in part.output)}
    for name in body.output:
        if name not in computed:
            body.node.append(onnx.helper.make_node("Constant", [], [name], value_float=0.0))


def _state_defaults(node: ir.Node, opset: int) -> None:
    import onnx
    import onnx_ir as ir

    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.from_proto(attribute.default_value)


def _body(node: ir.Node, opset: int) -> onnx.FunctionProto | str:
    """Return the body for this node as a function, or why there is none."""
    import onnx
    import onnx_ir as ir

    missing = f"the target has no kernel for {node.op_type}, and ONNX defines no body for it in opset {opset}"
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return missing
    if schema.has_function:
        versions = [version for version in schema.function_opset_versions if version <= opset]
        if versions:
            plain: bytes = schema.get_function_with_opset_version(max(versions))
            return plain if isinstance(plain, onnx.FunctionProto) else onnx.FunctionProto.FromString(plain)
    if not schema.has_context_dependent_function:
        return missing
    types = []
    for value in node.inputs:
        if value is None:
            types.append(onnx.TypeProto().SerializeToString())
            continue
        if value.dtype is None:
            return f"the type of '{value.name}' is not known"
        dims = dims_of(value)
        types.append(onnx.helper.make_tensor_type_proto(int(value.dtype), dims).SerializeToString())
    versions = [version for version in schema.context_dependent_function_opset_versions if version <= opset]
    if not versions:
        return missing
    proto = ir.to_proto(node).SerializeToString()
    try:
        made: bytes = schema.get_context_dependent_function_with_opset_version(max(versions), proto, types)
    except Exception as error:
        return f"ONNX cannot build the body of {node.op_type}: {str(error).splitlines()[0]}"
    return onnx.FunctionProto.FromString(made) if made else missing
