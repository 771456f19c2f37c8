"""A convolution with the residual added to it and the activation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.legalize.activations import activation_of
from passes.legalize.contrib import has_contrib, insert_contrib, lacks_kernel, quantized_beside
from passes.matching import has_reference, input_at, is_op, operand_pairs, other_readers, producer_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_FUSED = "FusedConv"
_ACTIVATIONS = frozenset({"Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})


@dataclass(frozen=True)
class FuseConvActivation(Pass):
    """Join Conv, a residual Add and an activation to com.microsoft FusedConv.

    Conv -> activation, Conv -> Add -> activation and Conv -> Add, with Relu, LeakyRelu, Clip between constants,
    HardSigmoid, HardSwish, Sigmoid or Tanh; the residual has provably the shape of the Conv's output.
    Refuses when the Conv's output or the sum has another reader, a Conv of int8 data, and types without a kernel.
    """

    name: ClassVar[str] = "fuse-conv-activation"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not has_contrib(context, _FUSED):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for find in (_activated, _added):  # the activations first: an Add of theirs goes with them
            for graph in model.graphs():
                for node in list(graph):
                    match = None if node.graph is not graph or has_reference(node) else find(node, facts)
                    if match is None:
                        continue
                    reason = _refusal(match, node) or lacks_kernel(context, _FUSED, match.conv.inputs[0])
                    if reason:
                        recorder.refuse(node, reason)
                    elif recorder.may_apply(node):
                        _fuse(match, node, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Match:
    """The convolution, the residual and the Add, and the activation's name and parameters."""

    conv: ir.Node
    residual: ir.Value | None
    add: ir.Node | None
    activation: tuple[str, tuple[float, ...]] | None


def _activated(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    if not is_op(node, *_ACTIVATIONS):
        return None
    activation = activation_of(node)
    value = node.inputs[0]
    add = producer_of(value, "Add")
    if activation is None:
        return None
    if add is not None and add.graph is node.graph:
        found = _added(add, facts)
        return None if found is None else _Match(found.conv, found.residual, add, activation)
    conv = producer_of(value, "Conv")
    return None if conv is None or conv.graph is not node.graph else _Match(conv, None, None, activation)


def _added(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    """Return the convolution that alone feeds an Add beside a residual of the same shape; the later one of two."""
    if not is_op(node, "Add"):
        return None
    found = None
    shape = facts.shape(node.outputs[0])
    for value, residual in operand_pairs(node):
        conv = producer_of(value, "Conv")
        if conv is None or conv.graph is not node.graph or value is residual or other_readers(value, node):
            continue
        if shape is None or None in shape or facts.shape(value) != shape or facts.shape(residual) != shape:
            continue
        found = _Match(conv, residual, node, None)
    return found


def _refusal(match: _Match, node: ir.Node) -> str:
    inner = [match.conv] if match.add in (None, node) else [match.conv, match.add]
    for current, reader in zip(inner, (*inner[1:], node), strict=True):
        if current is None:
            continue
        reason = other_readers(current.outputs[0], reader) or quantized_beside(current)
        if reason:
            return reason
    return quantized_beside(node)


def _fuse(match: _Match, node: ir.Node, editor: Editor) -> None:
    attributes = {name: attribute.value for name, attribute in match.conv.attributes.items()}
    if match.activation is not None:
        attributes["activation"], parameters = match.activation
        if parameters:
            attributes["activation_params"] = list(parameters)
    conv, output = match.conv, node.outputs[0]
    inputs = [conv.inputs[0], conv.inputs[1], input_at(conv, 2), match.residual]
    editor.take_over(output, insert_contrib(editor, node, _FUSED, inputs, like=output, attributes=attributes))
