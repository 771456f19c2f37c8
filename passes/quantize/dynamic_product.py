"""One dynamic int8 product: what it needs, how its input is evened out, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from passes.legalize.contrib import DOMAIN, insert_contrib
from passes.matching import constant_tensor, number
from passes.quantize.bias_correction import mean_shift
from passes.quantize.norm_channels import divide_norm, range_from_norm
from passes.quantize.row_scales import row_peaks
from passes.quantize.smoothing import Smoothing, best_smoothing
from passes.quantize.weighted import Weight, weight_of
from passes.quantize.weights import QuantizedWeight, dequantize_weight, quantize_weight

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.base import Context
    from passes.editing import Editor
    from passes.quantize.ranges import ActivationRange
    from passes.quantize.scheme import Granularity

    Floats = npt.NDArray[np.floating]

_FUSED_ALONE = "DynamicQuantizeMatMul"
_FUSED = "MatMulIntegerToFloat"


@dataclass(frozen=True, slots=True)
class DynamicProduct:
    """A MatMul or Gemm x [.., K] @ weight [K, N] + bias that can run on integers.

    bias: the constant [N], or None. end: the node whose output the product replaces, the Add of a MatMul's bias.
    """

    node: ir.Node
    source: ir.Value
    weight: Weight
    columns: int
    bias: ir.Value | None
    end: ir.Node

    @property
    def alpha(self) -> float:
        return number(self.node, "alpha", 1.0) if self.node.op_type == "Gemm" else 1.0

    @property
    def beta(self) -> float:
        return number(self.node, "beta", 1.0) if self.node.op_type == "Gemm" else 1.0

    def rows(self) -> Floats:
        """Return the weight as [K, N], read only now."""
        rows = self.weight.rows()
        assert rows is not None
        return rows


def product_of(node: ir.Node) -> DynamicProduct | str:
    """Return what a MatMul or Gemm multiplies, or why it stays in float."""
    weight = weight_of(node)
    if weight is None:
        return "both operands are computed; quantizing both at run time costs more than int8 saves"
    if not weight.has_rows():
        return "its constant is not a right operand [K, N]"
    if problem := weight.problem():
        return problem
    source = node.inputs[0]
    if source is None or source.dtype is None or source.dtype.name != "FLOAT":
        return "its input is not float32"
    columns = int(weight.tensor.shape.numpy()[0 if node.attributes.get_int("transB", 0) else 1])
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and not _is_row(bias, columns):
            return "its bias is no constant of one row"
        return DynamicProduct(node, source, weight, columns, bias, node)
    bias, end = _added(node, columns)
    return DynamicProduct(node, source, weight, columns, bias, end)


def _is_row(value: ir.Value, columns: int) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.size == columns == int(tensor.shape.numpy()[-1])


def _added(node: ir.Node, columns: int) -> tuple[ir.Value | None, ir.Node]:
    """Return the constant that an Add alone puts on the product, [N] or [1, 1, N], and the Add."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and not output.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        is_wider = other is not None and output.shape is not None and len(other.shape or ()) > len(output.shape)
        known = output.shape is not None or (other is not None and len(other.shape or ()) == 1)
        if add.graph is node.graph and other is not None and known and not is_wider and _is_row(other, columns):
            return other, add
    return None, node


def smoothing_of(
    source: ir.Value, products: Sequence[DynamicProduct], ranges: Mapping[str, ActivationRange]
) -> Smoothing | None:
    """Return the factors that even out the channels of `source`, where its range is known and that pays."""
    covered = known_range(source, ranges)
    if covered is None:
        return None
    return best_smoothing(covered, [product.rows() for product in products], symmetric=False)


def known_range(source: ir.Value, ranges: Mapping[str, ActivationRange]) -> ActivationRange | None:
    """Return the range by channel: calibrated, or estimated from the norm that makes the value; None without either.

    At run time the scale covers all that comes, so the calibrated extremes count and not the interval chosen by error.
    """
    seen = ranges.get(str(source.name))
    if seen is not None and seen.channels is not None:
        return replace(seen, low=min(seen.observed_low, 0.0), high=max(seen.observed_high, 0.0))
    return range_from_norm(source)


class ProductWriter:
    """Writes dynamic products, in the runtime's own operators where it has them."""

    def __init__(self, editor: Editor, context: Context, granularity: Granularity, *, correct_bias: bool) -> None:
        self.editor = editor
        self.context = context
        capabilities = context.capabilities
        self.granularity = granularity
        self.correct_bias = correct_bias
        self.magnitude = 127 if capabilities.quantization.weight_bits == 8 else 63
        self.has_alone = capabilities.has_kernel(_FUSED_ALONE, domain=DOMAIN)
        self.has_fused = capabilities.has_kernel(_FUSED, domain=DOMAIN)
        self._written: dict[tuple[object, ...], tuple[QuantizedWeight, ir.Value]] = {}

    def write(
        self, source: ir.Value, products: Sequence[DynamicProduct], smoothing: Smoothing | None, *, by_row: bool
    ) -> None:
        """Replace the products, which all read `source`, in one graph."""
        covered = known_range(source, self.context.ranges)
        first = products[0].node
        rows = [product.rows() for product in products]
        inner = source if smoothing is None else self._smoothed(source, products, smoothing)
        peaks = row_peaks(source, first, self.editor) if by_row else None
        if peaks is not None:
            inner = self.editor.insert(first, "Div", [inner, peaks], name=f"{source.name}_even", like=source)
        is_alone = len(products) == 1 and self.has_alone
        codes = None if is_alone else self._quantized(inner, first)
        for product, array in zip(products, rows, strict=True):
            scaled = array if smoothing is None else array * smoothing.factors[:, None]
            weight = self._weight(product, scaled, smoothing)
            bias = self._bias(product, scaled, weight[0], covered, smoothing)
            self._write_one(product, inner, codes, weight, bias, peaks)
        for product in products:
            self.editor.drop_constant(product.weight.value)
            if product.bias is not None:
                self.editor.drop_constant(product.bias)

    def _smoothed(self, source: ir.Value, products: Sequence[DynamicProduct], smoothing: Smoothing) -> ir.Value:
        """Return `source` over the factors: by its norm where that serves these products alone, else by a Mul."""
        readers = {product.node for product in products}
        is_ours = all(use.node in readers for use in source.uses()) and not source.is_graph_output()
        if is_ours and divide_norm(source, smoothing.factors, self.editor):
            return source
        inverse = self.editor.constant((1 / smoothing.factors).astype(np.float32), f"{source.name}_smoothing")
        return self.editor.insert(
            products[0].node, "Mul", [source, inverse], name=f"{source.name}_smoothed", like=source
        )

    def _quantized(self, source: ir.Value, before: ir.Node) -> Sequence[ir.Value]:
        """Return codes, scale and zero point of an activation, computed at run time."""
        import onnx_ir as ir

        first = self.editor.insert(
            before,
            "DynamicQuantizeLinear",
            [source],
            name=f"{source.name}_quantized",
            like=source,
            dtype=ir.DataType.UINT8,
            outputs=3,
        )
        node = first.producer()
        assert node is not None
        for value, kind in zip(node.outputs[1:], (ir.DataType.FLOAT, ir.DataType.UINT8), strict=True):
            value.type, value.shape = ir.TensorType(kind), ir.Shape([])
        return node.outputs

    def _weight(
        self, product: DynamicProduct, rows: Floats, smoothing: Smoothing | None
    ) -> tuple[QuantizedWeight, ir.Value]:
        """Return the int8 weight [K, N] and its initializer, made once for all that read it in the same way."""
        key = (
            product.weight.value,
            bool(product.node.attributes.get_int("transB", 0)),
            product.alpha,
            product.source if smoothing is not None else None,
        )
        if key not in self._written:
            axis = 1 if self.granularity == "channel" else None
            scaled = rows if product.alpha == 1.0 else rows * np.float32(product.alpha)
            quantized = quantize_weight(np.ascontiguousarray(scaled), axis=axis, magnitude=self.magnitude)
            name = f"{product.weight.value.name}_quantized"
            self._written[key] = quantized, self.editor.constant(quantized.codes, name)
        return self._written[key]

    def _bias(
        self,
        product: DynamicProduct,
        rows: Floats,
        weight: QuantizedWeight,
        covered: ActivationRange | None,
        smoothing: Smoothing | None,
    ) -> ir.Value | None:
        """Return the bias [N] with the mean shift of the rounded weights taken off (arXiv 1906.04721, 4.2)."""
        if product.bias is None:
            return None
        tensor = constant_tensor(product.bias)
        assert tensor is not None
        array = np.asarray(tensor.numpy(), np.float32).reshape(-1) * np.float32(product.beta)
        if self.correct_bias and covered is not None and covered.channels is not None:
            mean = np.asarray(covered.channels.mean)
            mean = mean if smoothing is None else mean / smoothing.factors
            rounding = dequantize_weight(weight) - rows * np.float32(product.alpha)
            is_transposed = product.node.attributes.get_int("transB", 0)
            shift = mean_shift(product.weight, rounding.T if is_transposed else rounding, mean)
            array = array if shift is None else array - shift
        return self.editor.constant(np.asarray(array, np.float32), f"{product.end.outputs[0].name}_bias")

    def _write_one(
        self,
        product: DynamicProduct,
        source: ir.Value,
        codes: Sequence[ir.Value] | None,
        weight: tuple[QuantizedWeight, ir.Value],
        bias: ir.Value | None,
        peaks: ir.Value | None,
    ) -> None:
        quantized, constant = weight
        inner_bias = bias if peaks is None else None
        node, end = product.node, product.end
        scale = self.editor.constant(quantized.scale, f"{product.weight.value.name}_scale")
        if codes is None:
            inputs = [source, constant, scale, None, inner_bias]
            made = insert_contrib(self.editor, end, _FUSED_ALONE, inputs, like=end.outputs[0])
        elif self.has_fused:
            value, value_scale, zero = codes
            inputs = [value, constant, value_scale, scale, zero, None, inner_bias]
            made = insert_contrib(self.editor, end, _FUSED, inputs, like=end.outputs[0])
        else:
            made = self._plain(product, codes, constant, scale, inner_bias)
        name, fused = node.name, made.producer()
        if peaks is not None:
            made = self._resized(product, made, peaks, bias)
        self.editor.take_over(end.outputs[0], made)
        assert fused is not None
        if name and node.graph is None and fused.op_type in (_FUSED, _FUSED_ALONE):
            fused.name = name

    def _resized(self, product: DynamicProduct, made: ir.Value, peaks: ir.Value, bias: ir.Value | None) -> ir.Value:
        """Return the results of rows that were divided by their peaks, in their own size, with the bias."""
        output = product.end.outputs[0]
        made = self.editor.insert(product.end, "Mul", [made, peaks], name=f"{output.name}_rows", like=output)
        if bias is None:
            return made
        return self.editor.insert(product.end, "Add", [made, bias], name=f"{output.name}_biased", like=output)

    def _plain(
        self,
        product: DynamicProduct,
        codes: Sequence[ir.Value],
        weight: ir.Value,
        scale: ir.Value,
        bias: ir.Value | None,
    ) -> ir.Value:
        """Return the product in standard operators, the form that runtimes recognise."""
        import onnx_ir as ir

        output = product.end.outputs[0]
        base, end = str(output.name), product.end
        value, value_scale, zero = codes
        whole = self.editor.insert(
            end, "MatMulInteger", [value, weight, zero], name=f"{base}_int32", like=output, dtype=ir.DataType.INT32
        )
        real = self.editor.insert(
            end, "Cast", [whole], name=f"{base}_real", like=output, attributes={"to": ir.DataType.FLOAT.value}
        )
        step = self.editor.insert(
            end,
            "Mul",
            [value_scale, scale],
            name=f"{base}_step",
            dtype=ir.DataType.FLOAT,
            shape=[product.columns] if self.granularity == "channel" else [],
        )
        made = self.editor.insert(end, "Mul", [real, step], name=f"{base}_scaled", like=output)
        if bias is not None:
            made = self.editor.insert(end, "Add", [made, bias], name=f"{base}_biased", like=output)
        return made
