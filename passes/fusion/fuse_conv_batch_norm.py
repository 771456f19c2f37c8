"""BatchNormalization folded into a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import (
    constant_tensor,
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


@dataclass(frozen=True)
class FuseConvBatchNorm(Pass):
    """Fold BatchNormalization into the Conv or ConvTranspose before it, or into the Conv after it.

    Conv [N, C, H, W] -> BatchNormalization becomes one Conv with scaled weights and a bias; BatchNormalization -> Conv
    as well, where the Conv pads nothing, since padding puts zeros where the norm would have put its bias.
    Refuses when the value between has another reader, a weight or statistic is not constant, or the norm is in training
    mode.
    """

    name: ClassVar[str] = "fuse-conv-batch-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "BatchNormalization"):
                    continue
                conv = producer_of(node.inputs[0], "Conv", "ConvTranspose")
                if conv is not None and conv.graph is graph:
                    _fold_after(conv, node, recorder, editor)
                    continue
                readers = node.outputs[0].consumers()
                if readers and all(is_op(reader, "Conv") and reader.graph is graph for reader in readers):
                    _fold_before(node, readers[0], recorder, editor)
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


def _constants(conv: ir.Node) -> tuple[np.ndarray, np.ndarray | None] | str:
    weight, bias = constant_tensor(conv.inputs[1]), constant_tensor(input_at(conv, 2))
    if weight is None or (bias is None and input_at(conv, 2) is not None):
        return "the weight or bias of the convolution is not constant"
    return weight.numpy(), None if bias is None else bias.numpy()


def _fold_after(conv: ir.Node, norm: ir.Node, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    affine, constants = _affine(norm), _constants(conv)
    reason = other_readers(conv.outputs[0], norm)
    if not reason and isinstance(affine, str):
        reason = affine
    if not reason and isinstance(constants, str):
        reason = constants
    if reason or isinstance(affine, str) or isinstance(constants, str):
        recorder.refuse(norm, reason)
        return
    if not recorder.may_apply(norm, "after"):
        return
    (factor, offset), (weight, bias) = affine, constants
    wide = weight.astype(np.float64)
    tail = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":  # [M, C / group, ...]
        wide = wide * factor.reshape(-1, 1, *tail)
    else:  # [C, M / group, ...]
        groups = integer(conv, "group", 1)
        split = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        wide = (split * factor.reshape(groups, 1, -1, *tail)).reshape(weight.shape)
    shifted = offset if bias is None else offset + bias.astype(np.float64) * factor
    output = norm.outputs[0]
    inputs = [
        conv.inputs[0],
        editor.constant(wide.astype(weight.dtype), f"{_weight_name(conv)}_folded"),
        editor.constant(shifted.astype(weight.dtype), f"{output.name}_bias"),
    ]
    new = editor.insert(norm, conv.op_type, inputs, name=str(output.name), attributes=_attributes(conv), like=output)
    editor.take_over(output, new)


def _fold_before(norm: ir.Node, conv: ir.Node, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    affine, constants = _affine(norm), _constants(conv)
    reason = other_readers(norm.outputs[0], conv)
    if not reason and (
        any(integers(conv, "pads") or ()) or text(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        reason = "the Conv after it pads with zeros"
    if not reason and isinstance(affine, str):
        reason = affine
    if not reason and isinstance(constants, str):
        reason = constants
    if reason or isinstance(affine, str) or isinstance(constants, str):
        recorder.refuse(norm, reason)
        return
    if not recorder.may_apply(norm, "before"):
        return
    (factor, offset), (weight, bias) = affine, constants
    groups, wide = integer(conv, "group", 1), weight.astype(np.float64)
    tail = (1,) * (weight.ndim - 2)
    # input channel i of group g is channel g * C / group + i of the norm
    grouped = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])  # [G, M / G, C / G, ...]
    by_channel = (groups, 1, -1, *tail)
    axes = tuple(range(2, grouped.ndim))
    moved = (grouped * offset.reshape(by_channel)).sum(axis=axes).reshape(-1)
    scaled = (grouped * factor.reshape(by_channel)).reshape(weight.shape)
    shifted = moved if bias is None else moved + bias.astype(np.float64)
    output = conv.outputs[0]
    inputs = [
        norm.inputs[0],
        editor.constant(scaled.astype(weight.dtype), f"{_weight_name(conv)}_folded"),
        editor.constant(shifted.astype(weight.dtype), f"{output.name}_bias"),
    ]
    new = editor.insert(conv, "Conv", inputs, name=str(output.name), attributes=_attributes(conv), like=output)
    editor.take_over(output, new)


def _weight_name(conv: ir.Node) -> str:
    return str(conv.inputs[1].name) if conv.inputs[1] is not None else "weight"


def _attributes(node: ir.Node) -> dict[str, object]:
    return dict(node.attributes)
