"""Constant scales and shifts of channels folded into the weights before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor, forward
from passes.fusion.channel_weights import (
    CHANNEL_AXIS,
    UNBIASED,
    Weights,
    channels_of,
    fits_attribute,
    scaled,
    underflows,
    weights_of,
)
from passes.matching import (
    SMALL_BYTES,
    constant_array,
    constant_tensor,
    input_at,
    integers,
    is_op,
    number,
    operand_pairs,
    other_readers,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

_SCALES, _SHIFTS = ("Mul", "Div"), ("Add", "Sub")


@dataclass(frozen=True)
class FuseChannelArithmetic(Pass):
    """Fold Mul, Div, Add or Sub of a constant, one number or one for each channel, into the operator before it.

    | before it | Mul, Div | Add, Sub |
    |---|---|---|
    | Conv, ConvTranspose | yes | yes |
    | BatchNormalization, InstanceNormalization, GroupNormalization, LayerNormalization | yes | yes |
    | RMSNormalization | yes | no: it has no bias |
    | Gemm | yes; one number goes into alpha and beta, and no weight is read | yes |
    | MatMul of a constant matrix, also with the Add of its bias after it | yes | no: it would still be an Add |

    Transposes may lie between: a ConvNeXt block's layer scale comes after the Transpose of its last product. Only
    weights up to `max_bytes` are changed. Refuses when a value between has another reader or lies in another graph, the
    weight varies, is larger than that or is read by other nodes as well, or the result overflows or underflows.
    """

    name: ClassVar[str] = "fuse-channel-arithmetic"
    max_bytes: int = 33554432

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is graph and is_op(node, *_SCALES, *_SHIFTS):
                    match = _match(node, facts)
                    if match is not None:
                        _fold(match, self.max_bytes, recorder, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Match:
    """`last` computes varying * factor or varying + offset, where varying comes from `source` through `between`."""

    last: ir.Node
    varying: ir.Value
    constant: np.ndarray  # [channels], or [] for one number
    source: ir.Node
    between: tuple[ir.Node, ...]
    bias_add: ir.Node | None


def _match(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    for varying, fixed in operand_pairs(node):
        if node.op_type in ("Div", "Sub") and fixed is not node.inputs[1]:
            continue
        constant, shape = constant_array(fixed), facts.shape(varying)
        if constant is None or shape is None or constant.dtype.kind in "iub" or constant.ndim > len(shape):
            continue
        places = [axis - constant.ndim for axis, length in enumerate(constant.shape) if length != 1]
        if len(places) > 1 or constant.size == 0:
            continue
        axis = len(shape) + places[0] if places else None
        found = _source(varying, axis, len(shape), is_scale=node.op_type in _SCALES)
        if found is not None:
            values = constant.reshape(-1).astype(np.float64) if places else np.float64(constant.reshape(-1)[0])
            return _Match(node, varying, np.asarray(values), *found)
    return None


def _source(
    value: ir.Value, axis: int | None, rank: int, *, is_scale: bool
) -> tuple[ir.Node, tuple[ir.Node, ...], ir.Node | None] | None:
    """Return the operator whose channels lie on `axis` of `value`, the nodes between, and the Add of its bias."""
    between: list[ir.Node] = []
    bias_add: ir.Node | None = None
    current: ir.Value | None = value
    while current is not None:
        node = current.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type == "Transpose":
            perm = integers(node, "perm") or tuple(reversed(range(rank)))
            axis = None if axis is None else perm[axis]
            current = node.inputs[0]
        elif node.op_type == "Add" and is_scale and bias_add is None and axis in (None, rank - 1):
            product = next((mine for mine, bias in operand_pairs(node) if _is_row_bias(bias)), None)
            if product is None:
                return None
            bias_add, current = node, product
        elif node.op_type in CHANNEL_AXIS and node.outputs[0] is current:
            fits = axis is None or axis == CHANNEL_AXIS[node.op_type] % rank
            takes = is_scale or node.op_type not in UNBIASED
            adds = bias_add is None or node.op_type == "MatMul"
            return (node, tuple(between), bias_add) if fits and takes and adds else None
        else:
            return None
        between.append(node)
    return None


def _is_row_bias(value: ir.Value) -> bool:
    """Return whether this is a constant that adds to the last axis: the columns of a product."""
    tensor = constant_tensor(value)
    return tensor is not None and len(tensor.shape) <= 1 and tensor.nbytes <= SMALL_BYTES


def _obstacle(match: _Match, weights: Weights | str, max_bytes: int) -> str:
    """Return why the weights cannot take the constant; empty when they can."""
    source = match.source
    chain = (source, *match.between, match.last)
    if any(node.graph is not match.last.graph for node in chain):
        return "part of the chain lies in another graph"
    for node in (source, *match.between):
        reason = other_readers(node.outputs[0], *chain)
        if reason:
            return reason
    if isinstance(weights, str):
        return weights
    is_scale = match.last.op_type in _SCALES
    if is_scale and not (source.op_type == "Gemm" and match.constant.ndim == 0):
        size, name = weights.weight.nbytes, source.inputs[1].name if source.inputs[1] is not None else ""
        if size > max_bytes:
            return f"the weight '{name}' has {size} bytes, over max_bytes={max_bytes}"
        if size > SMALL_BYTES and source.inputs[1] is not None and len(source.inputs[1].uses()) > 1:
            return f"the weight '{name}' is read by other nodes as well"
    if match.constant.ndim and match.constant.size != channels_of(source, weights.weight):
        return "the constant has not one number for each channel"
    if source.op_type == "Gemm" and not is_scale and number(source, "beta", 1.0) != 1:
        return "the Gemm scales its bias"
    return ""


def _fold(match: _Match, max_bytes: int, recorder: Recorder, editor: Editor) -> None:
    source, last = match.source, match.last
    weights = weights_of(source)
    reason = _obstacle(match, weights, max_bytes)
    if reason or isinstance(weights, str):
        recorder.refuse(last, reason)
        return
    changed = _scale(match, weights) if last.op_type in _SCALES else _shift(match, weights)
    if isinstance(changed, str):
        recorder.refuse(last, changed)
        return
    output = last.outputs[0]
    if not recorder.may_apply(last, source.op_type):
        return
    for node, index, array in changed.inputs:
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        base = f"{node.outputs[0].name}_bias" if old is None else f"{old.name}_folded"
        node.replace_input_with(index, editor.constant(array, base))
    for name, value in changed.attributes:
        import onnx_ir as ir

        source.attributes[name] = ir.AttrFloat32(name, value)
    forward(output, match.varying)
    editor.drop(last)


@dataclass(frozen=True, slots=True)
class _Changed:
    inputs: tuple[tuple[ir.Node, int, np.ndarray], ...] = ()
    attributes: tuple[tuple[str, float], ...] = ()


def _scale(match: _Match, weights: Weights) -> _Changed | str:
    source = match.source
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.asarray(1.0 / match.constant if match.last.op_type == "Div" else match.constant)
    if not np.all(np.isfinite(factor)):
        return "the constant is 0 or not finite"
    inputs: list[tuple[ir.Node, int, np.ndarray]] = []
    attributes: list[tuple[str, float]] = []
    if source.op_type == "Gemm" and factor.ndim == 0:
        attributes = [(name, number(source, name, 1.0) * float(factor)) for name in ("alpha", "beta")]
        if not all(fits_attribute(value, weights.weight.dtype.numpy()) for _, value in attributes):
            return "the scaled alpha or beta is not a number of 32 bits"
    else:
        inputs.append((source, 1, scaled(source, weights.weight.numpy(), factor)))
        if weights.bias is not None:
            inputs.append((source, 2, weights.bias.numpy().astype(np.float64) * factor))
    if match.bias_add is not None:
        index = next(i for i, value in enumerate(match.bias_add.inputs) if value is not None and _is_row_bias(value))
        bias = constant_tensor(match.bias_add.inputs[index])
        assert bias is not None
        inputs.append((match.bias_add, index, bias.numpy().astype(np.float64) * factor))
    return _narrowed(inputs, weights, attributes)


def _shift(match: _Match, weights: Weights) -> _Changed | str:
    offset = -match.constant if match.last.op_type == "Sub" else match.constant
    row = np.broadcast_to(offset, (channels_of(match.source, weights.weight),))
    bias = row if weights.bias is None else weights.bias.numpy().astype(np.float64) + row
    return _narrowed([(match.source, 2, np.asarray(bias))], weights, [])


def _narrowed(
    inputs: list[tuple[ir.Node, int, np.ndarray]], weights: Weights, attributes: list[tuple[str, float]]
) -> _Changed | str:
    """Return the change in the weight's own type, or why it does not fit."""
    dtype = weights.weight.dtype.numpy()
    with np.errstate(over="ignore", under="ignore"):
        narrow = [(node, index, array.astype(dtype)) for node, index, array in inputs]
    if not all(np.all(np.isfinite(array.astype(np.float64))) for _, _, array in narrow):
        return "the scaled weight is not finite"
    if any(underflows(constant_tensor(input_at(node, index)), array) for node, index, array in narrow):
        return "the scaled weight underflows"
    return _Changed(tuple(narrow), tuple(attributes))
