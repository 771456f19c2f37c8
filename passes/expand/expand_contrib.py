"""The com.microsoft operators without a kernel, as standard ones: for graphs optimized for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.capabilities import Capabilities
from passes.editing import Editor
from passes.expand.contrib_activations import (
    bias_gelu,
    fast_gelu,
    fused_conv,
    fused_gemm,
    fused_matmul,
    gelu,
    quick_gelu,
)
from passes.expand.contrib_attention import attention, multi_head_attention, rotary_embedding
from passes.expand.contrib_norms import embedding_norm, rms_norm, skip_norm
from passes.expand.contrib_writer import Form, Writer
from passes.matching import has_reference, opset_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_DOMAIN = "com.microsoft"
_FORMS: Mapping[tuple[str, str], Callable[[Writer, ShapeFacts], Form]] = {
    ("", "SimplifiedLayerNormalization"): rms_norm,
    (_DOMAIN, "SimplifiedLayerNormalization"): rms_norm,
    (_DOMAIN, "Attention"): attention,
    (_DOMAIN, "BiasGelu"): bias_gelu,
    (_DOMAIN, "EmbedLayerNormalization"): embedding_norm,
    (_DOMAIN, "FastGelu"): fast_gelu,
    (_DOMAIN, "FusedConv"): fused_conv,
    (_DOMAIN, "FusedGemm"): fused_gemm,
    (_DOMAIN, "FusedMatMul"): fused_matmul,
    (_DOMAIN, "Gelu"): gelu,
    (_DOMAIN, "MultiHeadAttention"): multi_head_attention,
    (_DOMAIN, "QuickGelu"): quick_gelu,
    (_DOMAIN, "RotaryEmbedding"): rotary_embedding,
    (_DOMAIN, "SkipLayerNormalization"): skip_norm,
    (_DOMAIN, "SkipSimplifiedLayerNormalization"): skip_norm,
}
# The first opset with each standard operator that may be needed.
_SINCE = {"Gelu": 20, "LayerNormalization": 17, "Attention": 23, "RMSNormalization": 23, "RotaryEmbedding": 23}


@dataclass(frozen=True)
class ExpandContrib(Pass):
    """Write com.microsoft operators that the target has no kernel for as standard operators.

    Attention and MultiHeadAttention on [B, S, H] with padding [B, T] or additive mask, RotaryEmbedding, the norms with
    their residual or embeddings, activations with bias, and FusedMatMul, FusedConv and FusedGemm.
    Refuses what a node of these does beyond that (a statistic that is read, packed or ragged batches, caches that share
    a buffer), shapes that must be known and are not, and opsets older than the standard operator.
    """

    name: ClassVar[str] = "expand-contrib"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        wanted = [
            node
            for graph in model.graphs()
            for node in graph
            if (node.domain, node.op_type) in _FORMS and not _has_kernel(node, context.capabilities)
        ]
        if not wanted:
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for node in wanted:
            form = _form(node, editor, facts)
            late = [name for name in form.needs if opset_of(model) < _SINCE.get(name, 0)]
            if form.reason or late:
                recorder.refuse(node, form.reason or f"{late[0]} needs opset {_SINCE[late[0]]}", node.op_type)
            elif recorder.may_apply(node, node.op_type):
                for old, new in form.write():
                    editor.take_over(old, new)
        _forget_domain(model)
        return recorder.result()


def _has_kernel(node: ir.Node, capabilities: Capabilities) -> bool:
    """Return whether the target names a kernel; the standard set, which None stands for, has none of these."""
    return capabilities.kernels is not None and capabilities.has_kernel(node.op_type, domain=node.domain)


def _form(node: ir.Node, editor: Editor, facts: ShapeFacts) -> Form:
    if has_reference(node):
        return Form(reason="an attribute refers to the function's own")
    output = node.outputs[0]
    if output.dtype is None and (node.inputs[0] is None or node.inputs[0].dtype is None):
        return Form(reason="the type of its data is not known")
    return _FORMS[node.domain, node.op_type](Writer(node, editor), facts)


def _forget_domain(model: ir.Model) -> None:
    """Drop the import of com.microsoft when no node is left in it."""
    if not any(node.domain == _DOMAIN for graph in model.graphs() for node in graph):
        model.opset_imports.pop(_DOMAIN, None)
