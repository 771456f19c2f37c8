"""A Gemm with the activation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.legalize.activations import activation_of
from passes.legalize.contrib import has_contrib, insert_contrib, lacks_kernel, quantized_beside
from passes.matching import has_reference, is_op, other_readers, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

_FUSED = "FusedGemm"
_ACTIVATIONS = frozenset({"HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
_PARAMETER_NAMES = ("activation_alpha", "activation_beta")


@dataclass(frozen=True)
class FuseGemmActivation(Pass):
    """Join Gemm and the Relu, LeakyRelu, HardSigmoid, Sigmoid or Tanh after it to com.microsoft FusedGemm.

    Refuses when the Gemm's output has another reader, a Gemm of int8 data, and types that the target has no kernel for.
    """

    name: ClassVar[str] = "fuse-gemm-activation"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not has_contrib(context, _FUSED):
            return recorder.result()
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, *_ACTIVATIONS) or has_reference(node):
                    continue
                gemm = producer_of(node.inputs[0], "Gemm")
                activation = activation_of(node)
                if gemm is None or gemm.graph is not graph or activation is None or has_reference(gemm):
                    continue
                reason = other_readers(gemm.outputs[0], node) or quantized_beside(gemm) or quantized_beside(node)
                reason = reason or lacks_kernel(context, _FUSED, gemm.inputs[0])
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node):
                    attributes = {name: attribute.value for name, attribute in gemm.attributes.items()}
                    attributes["activation"], parameters = activation
                    attributes |= dict(zip(_PARAMETER_NAMES, parameters, strict=False))
                    output = node.outputs[0]
                    fused = insert_contrib(editor, node, _FUSED, gemm.inputs, like=output, attributes=attributes)
                    editor.take_over(output, fused)
        return recorder.result()
