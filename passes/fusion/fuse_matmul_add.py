"""A matrix product and its bias as one Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import broadcasts_into
from passes.editing import Editor
from passes.matching import FLOATS, constant_tensor, is_op, operand_pairs, opset_of, other_readers, producer_of
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseMatmulAdd(Pass):
    """Join MatMul [M, K] @ [K, N] and the Add of a constant bias to Gemm.

    Only for matrices: on [B, S, K] a Gemm would need a Reshape on either side, and runtimes join the two by themselves.
    Refuses when the product has another reader or the bias does not provably broadcast to it.
    """

    name: ClassVar[str] = "fuse-matmul-add"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "Add") or opset_of(model) < 11:
                    continue
                for product, bias in operand_pairs(node):
                    matmul = producer_of(product, "MatMul")
                    if matmul is None or matmul.graph is not graph or constant_tensor(bias) is None:
                        continue
                    shapes = [facts.shape(value) for value in (*matmul.inputs, product)]
                    if any(shape is None or len(shape) != 2 for shape in shapes):
                        break
                    if product.dtype is None or product.dtype.name not in FLOATS:
                        break
                    bias_shape = facts.shape(bias)
                    reason = other_readers(product, node)
                    # a bias of one column or one element is legal in Gemm too, as long as the product does not grow
                    if not reason and (bias_shape is None or not broadcasts_into(bias_shape, shapes[2])):
                        reason = f"the bias '{bias.name}' does not provably broadcast to the product"
                    if reason:
                        recorder.refuse(node, reason)
                    elif recorder.may_apply(node):
                        output = node.outputs[0]
                        inputs = [*matmul.inputs, bias]
                        new = editor.insert(node, "Gemm", inputs, name=str(output.name), like=output)
                        editor.take_over(output, new)
                    break
        return recorder.result()
