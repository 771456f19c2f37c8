"""Dynamic int8: products whose activations get their scale at run time, from the data itself, without calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor
from passes.quantize.dynamic_product import DynamicProduct, ProductWriter, product_of, smoothing_of
from passes.quantize.dynamic_recurrent import quantize_lstm
from passes.quantize.row_scales import has_loud_rows
from passes.quantize.scheme import Granularity

if TYPE_CHECKING:
    import onnx_ir as ir

LEAST_COLUMNS = 16
"""Fewer columns of weights than this, over all products of one activation, don't pay for quantizing it."""

_PRODUCTS = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Multiply by int8 weights, with the activation quantized to uint8 at run time by its own extremes.

    MatMul and Gemm with a constant right operand become com.microsoft DynamicQuantizeMatMul, or MatMulIntegerToFloat
    where several read one activation, which is then quantized once; without these kernels, DynamicQuantizeLinear and
    MatMulInteger. LSTM becomes com.microsoft DynamicQuantizeLSTM. No calibration is needed. An operator stays in float,
    with the reason, when both operands are computed, the weight is tiny, not finite or the left operand, or there are
    too few columns.
    granularity: one weight scale a column, or one a tensor.
    smooth: even out the channels of an activation, by its calibrated range, or by the scale and bias of the norm that
    makes it (no data needed), where that lowers the estimated error.
    by_row: divide the rows of what an activation function makes by their peaks first, so that a loud token leaves the
    others their codes; such values are not evened out by channel.
    correct_bias: take the mean shift that rounded weights cause off the bias, where the mean of the input is known.
    least_recurrent_sqnr_db: an LSTM that measures less than this, alone on random data, stays in float.
    """

    name: ClassVar[str] = "quantize-dynamic"
    optional: ClassVar[bool] = False

    granularity: Granularity = "channel"
    smooth: bool = True
    by_row: bool = True
    correct_bias: bool = True
    least_recurrent_sqnr_db: float = 25.0

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Quantize the main graph and every subgraph."""
        recorder = context.recorder(self.name)
        if any(value.dtype is None for graph in model.graphs() for node in graph for value in node.outputs):
            from onnx_ir.passes.common import ShapeInferencePass

            ShapeInferencePass()(model)
        editor = Editor(model)
        writer = ProductWriter(editor, context, self.granularity, correct_bias=self.correct_bias)
        for graph in model.graphs():
            for is_loud, products in _groups(graph, recorder):
                allowed = [product for product in products if recorder.may_apply(product.node, "int8 product")]
                if allowed:
                    source = allowed[0].source
                    is_by_row = self.by_row and is_loud
                    is_smoothed = self.smooth and not is_by_row
                    smoothing = smoothing_of(source, allowed, context.ranges) if is_smoothed else None
                    writer.write(source, allowed, smoothing, by_row=is_by_row)
            for node in list(graph):
                if node.op_type == "LSTM" and node.domain in ("", "ai.onnx"):
                    quantize_lstm(
                        node, editor, context, recorder, self.granularity, least_sqnr_db=self.least_recurrent_sqnr_db
                    )
        return recorder.result()


def _groups(graph: ir.Graph, recorder: Recorder) -> Iterator[tuple[bool, list[DynamicProduct]]]:
    """Yield whether an activation has loud rows, and the products of it; records what stays in float.

    Where another product makes the activation, it may have been written anew since, so it is looked up when its turn
    comes.
    """
    found: dict[ir.Value, list[DynamicProduct]] = {}
    for node in graph:
        if node.op_type not in _PRODUCTS or node.domain not in ("", "ai.onnx"):
            continue
        product = product_of(node)
        if isinstance(product, str):
            recorder.refuse(node, product, f"int8 {node.op_type}")
        else:
            found.setdefault(product.source, []).append(product)
    loud = {source for source in found if has_loud_rows(source)}
    for source, products in found.items():
        columns = sum(product.columns for product in products)
        if columns >= LEAST_COLUMNS:
            now = products[0].node.inputs[0]
            assert now is not None
            yield source in loud, [replace(product, source=now) for product in products]
            continue
        for product in products:
            reason = f"{columns} columns of weights don't pay for quantizing '{source.name}'"
            recorder.refuse(product.node, reason, f"int8 {product.node.op_type}")
