"""BatchNormalization folded into a convolution or matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.fusion.channel_weights import Weights, absorbed, narrowed, scaled, weights_of
from passes.matching import (
    constant_tensor,
    dims_of,
    input_at,
    integer,
    integers,
    is_op,
    number,
    other_readers,
    producer_of,
    text,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.base import Recorder

_TARGETS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_READERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class FuseConvBatchNorm(Pass):
    """Fold BatchNormalization into the Conv, ConvTranspose or matrix product next to it.

    | form | becomes |
    |---|---|
    | Conv or ConvTranspose, BatchNormalization | Conv or ConvTranspose with a bias, also in groups |
    | Gemm, or MatMul of matrices, BatchNormalization | Gemm |
    | BatchNormalization, Convs that pad nothing | Convs with a bias; with padding if the norm shifts nothing |
    | BatchNormalization [N, C], Gemm or MatMul | Gemm |

    So Conv, Relu, BatchNormalization, Conv folds into the second Conv. A weight that others read too is copied.
    Refuses when the value between has another reader, a weight or statistic is not constant, the norm is in training
    mode, the Conv after it pads: with zeros, where the norm would have put its bias, or a folded weight or bias is too
    large or too small for its type.
    """

    name: ClassVar[str] = "fuse-conv-batch-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "BatchNormalization"):
                    continue
                before = producer_of(node.inputs[0], *_TARGETS)
                if before is not None and before.graph is graph:
                    _fold_after(before, node, recorder, editor)
                    continue
                readers = list(dict.fromkeys(node.outputs[0].consumers()))
                if readers and all(is_op(reader, *_READERS) and reader.graph is graph for reader in readers):
                    _fold_before(node, readers, recorder, editor)
        return recorder.result()


def _affine(norm: ir.Node) -> tuple[np.ndarray, np.ndarray] | str:
    """Return the norm's factor and offset for each channel, in double precision; or why there are none."""
    import numpy as np

    if integer(norm, "training_mode", 0) or len(norm.outputs) > 1:
        return "the norm is in training mode"
    tensors = [constant_tensor(input_at(norm, index)) for index in range(1, 5)]
    if any(tensor is None for tensor in tensors):
        return "a statistic of the norm is not constant"
    scale, bias, mean, variance = (tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None)
    factor = scale / np.sqrt(variance + number(norm, "epsilon", 1e-5))
    return factor, bias - mean * factor


def _constants(node: ir.Node) -> Weights | str:
    found = weights_of(node)
    if isinstance(found, str):
        is_conv = node.op_type.startswith("Conv")
        return "the weight or bias of the convolution is not constant" if is_conv else found
    if node.op_type == "Gemm":
        if integer(node, "transA", 0) or number(node, "alpha", 1.0) != 1 or number(node, "beta", 1.0) != 1:
            return "the Gemm transposes its input or scales"
        if found.bias is not None and len(found.bias.shape) > 1:
            return "the bias of the Gemm is not one row"
    return found


def _fold_after(before: ir.Node, norm: ir.Node, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    if before.op_type == "MatMul" and len(dims_of(norm.outputs[0]) or dims_of(norm.inputs[0]) or ()) != 2:
        return  # channels are on another axis than the columns
    affine, constants = _affine(norm), _constants(before)
    reason = other_readers(before.outputs[0], norm)
    if not reason and isinstance(affine, str):
        reason = affine
    if not reason and isinstance(constants, str):
        reason = constants
    if reason or isinstance(affine, str) or isinstance(constants, str):
        recorder.refuse(norm, reason)
        return
    factor, offset = affine
    bias = None if constants.bias is None else constants.bias.numpy().astype(np.float64)
    shifted = offset if bias is None else offset + bias * factor
    is_first = before.op_type == "Conv" or integer(before, "transB", 0)  # of the axes of the weight
    weight = scaled(before, constants.weight.numpy(), factor)
    beside = shifted if before.op_type != "ConvTranspose" else None  # whose channels lie in groups
    folded = _narrowed(constants, weight, shifted, axis=0 if is_first else 1, beside=beside)
    if isinstance(folded, str):
        recorder.refuse(norm, folded)
        return
    if recorder.may_apply(norm, "after"):
        _replace(before, before.inputs[0], folded, norm, editor)


def _fold_before(norm: ir.Node, readers: list[ir.Node], recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    affine = _affine(norm)
    if isinstance(affine, str):
        recorder.refuse(norm, affine)
        return
    factor, offset = affine
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for reader in readers:
        constants = _constants(reader)
        reason = other_readers(norm.outputs[0], *readers)
        if not reason and reader.op_type == "Conv" and _pads(reader) and np.any(offset):
            reason = "the Conv after it pads with zeros"
        if not reason and reader.op_type != "Conv":
            reason = _unlike_matrix(norm, reader)
        if not reason and isinstance(constants, str):
            reason = constants
        if reason or isinstance(constants, str):
            recorder.refuse(norm, reason)
            return
        weight, shifted = absorbed(reader, constants.weight.numpy(), factor, offset)
        if constants.bias is not None:
            shifted = shifted + constants.bias.numpy().astype(np.float64)
        axis = 1 if reader.op_type == "Conv" or integer(reader, "transB", 0) else 0
        folded = _narrowed(constants, weight, shifted, axis=axis)
        if isinstance(folded, str):
            recorder.refuse(norm, folded)
            return
        found.append(folded)
    if recorder.may_apply(norm, "before"):
        for reader, folded in zip(readers, found, strict=True):
            _replace(reader, norm.inputs[0], folded, reader, editor)


def _unlike_matrix(norm: ir.Node, reader: ir.Node) -> str:
    """Return why the norm's channels are not the rows of the reader's weight; empty when they are."""
    value = norm.outputs[0]
    if reader.inputs[0] is not value or value in reader.inputs[1:]:
        return f"'{value.name}' is not the first operand of the {reader.op_type}"
    dims = dims_of(value) or dims_of(norm.inputs[0])
    return "" if dims is not None and len(dims) == 2 else f"'{value.name}' is not known to be a matrix"


def _pads(conv: ir.Node) -> bool:
    return any(integers(conv, "pads") or ()) or text(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _narrowed(
    old: Weights, weight: np.ndarray, bias: np.ndarray, *, axis: int, beside: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | str:
    """Return the folded weight and bias in the type of the weight, or why they do not fit."""
    dtype = old.weight.dtype.numpy()
    new_weight = narrowed(weight, old.weight, dtype, axis=axis, beside=beside)
    new_bias = narrowed(bias, None, dtype)
    if isinstance(new_weight, str):
        return new_weight
    return new_bias if isinstance(new_bias, str) else (new_weight, new_bias)


def _replace(
    linear: ir.Node, value: ir.Value | None, folded: tuple[np.ndarray, np.ndarray], last: ir.Node, editor: Editor
) -> None:
    """Put the operator with this weight and bias in the place of `last`."""
    weight, bias = folded
    output, base = last.outputs[0], linear.inputs[1]
    inputs = [
        value,
        editor.constant(weight, f"{'weight' if base is None else base.name}_folded"),
        editor.constant(bias, f"{output.name}_bias"),
    ]
    op_type = "Gemm" if linear.op_type == "MatMul" else linear.op_type
    new = editor.insert(last, op_type, inputs, name=str(output.name), attributes=dict(linear.attributes), like=output)
    editor.take_over(output, new)
