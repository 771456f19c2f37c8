"""GroupNormalization as InstanceNormalization of the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import constant_array, dims_of, has_reference, integer, is_op, number, opset_of
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_CHANNEL_SCALES = 21
TYPES = ("FLOAT", "FLOAT16")


@dataclass(frozen=True)
class ExpandGroupNormalization(Pass):
    """Take a GroupNormalization that the target has no kernel for apart to an InstanceNormalization of its groups.

    Reshape to [N, groups, rest], InstanceNormalization, Reshape back, Mul by the scale, Add the bias: five nodes where
    the body that ONNX defines has some thirty. A scale of ones and a bias of zeros fall away; with one channel a group
    it is an InstanceNormalization by itself, and with one scale a group, as before opset 21, that takes scale and bias.
    Where more than one axis of the places varies, a Shape says what to return to.

    Refuses data of unknown rank or channels, or neither float32 nor float16: those are left to expand-functions. Does
    nothing where the target has no kernel of InstanceNormalization either.
    """

    name: ClassVar[str] = "expand-group-normalization"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        has_kernel = context.capabilities.has_kernel
        if has_kernel("GroupNormalization") or not has_kernel("InstanceNormalization"):
            return recorder.result()
        nodes = [node for graph in model.graphs() for node in graph if is_op(node, "GroupNormalization")]
        if nodes:
            infer_shapes(model)
        editor = Editor(model)
        for node in nodes:
            _expand(node, opset_of(model), recorder, editor)
        return recorder.result()


def _expand(node: ir.Node, opset: int, recorder: Recorder, editor: Editor) -> None:
    value, scale, bias = node.inputs[0], node.inputs[1], node.inputs[2]
    dims, output = dims_of(value), node.outputs[0]
    if value is None or scale is None or bias is None or has_reference(node):
        recorder.refuse(node, "an input or attribute is not known")
        return
    if dims is None or len(dims) < 3 or not isinstance(dims[1], int):
        recorder.refuse(node, f"the rank or the channels of '{value.name}' are not known")
        return
    if value.dtype is None or value.dtype.name not in TYPES:
        recorder.refuse(node, f"'{value.name}' is neither float32 nor float16")
        return
    if not recorder.may_apply(node):
        return
    channels, groups = dims[1], integer(node, "num_groups", 1)
    attributes = {"epsilon": number(node, "epsilon", 1e-5)}
    name = str(output.name)
    if groups == channels:
        inputs = [value, scale, bias]
        new = editor.insert(
            node, "InstanceNormalization", inputs, name=name, attributes=attributes, dtype=value.dtype, like=output
        )
        editor.take_over(output, new)
        return
    is_by_group = opset < OPSET_OF_CHANNEL_SCALES
    weights = [scale, bias] if is_by_group else _plain(groups, value.dtype, editor)
    parted_dims = [dims[0], groups, _rest(dims, groups)]
    to_groups = _integers([0, groups, -1], editor)
    parted = editor.insert(
        node, "Reshape", [value, to_groups], name=f"{name}_groups", dtype=value.dtype, shape=parted_dims
    )
    norm = editor.insert(
        node, "InstanceNormalization", [parted, *weights], name=f"{name}_norm", attributes=attributes, like=parted
    )
    new = editor.insert(
        node, "Reshape", [norm, _shape_of(value, dims, node, editor)], name=name, like=value, shape=dims
    )
    for op_type, weight, neutral in () if is_by_group else (("Mul", scale, 1), ("Add", bias, 0)):
        array = constant_array(weight)
        if array is None or (array != neutral).any():
            new = editor.insert(node, op_type, [new, _by_channel(weight, len(dims), node, editor)], name=name, like=new)
    editor.take_over(output, new)


def _plain(groups: int, dtype: ir.DataType, editor: Editor) -> list[ir.Value]:
    import numpy as np

    return [
        editor.constant(np.ones(groups, dtype.numpy()), "group_ones"),
        editor.constant(np.zeros(groups, dtype.numpy()), "group_zeros"),
    ]


def _integers(numbers: list[int], editor: Editor) -> ir.Value:
    import numpy as np

    return editor.constant(np.array(numbers, np.int64), "group_shape")


def _rest(dims: tuple[int | str | None, ...], groups: int) -> int | None:
    """Return how many elements of one picture lie in a group."""
    count = 1
    for dim in dims[1:]:
        if not isinstance(dim, int):
            return None
        count *= dim
    return count // groups


def _shape_of(value: ir.Value, dims: tuple[int | str | None, ...], node: ir.Node, editor: Editor) -> ir.Value:
    """Return the shape of `value` [N, C, ...] as it is written in a Reshape of [N, groups, rest]."""
    import onnx_ir as ir

    wanted = [dim if isinstance(dim, int) else -1 for dim in dims[1:]]
    if wanted.count(-1) <= 1 and 0 not in wanted:
        return _integers([0, *wanted], editor)
    return editor.insert(node, "Shape", [value], name=f"{value.name}_shape", dtype=ir.DataType.INT64, shape=[len(dims)])


def _by_channel(weight: ir.Value, rank: int, node: ir.Node, editor: Editor) -> ir.Value:
    """Return the scale or bias in the shape [C, 1, ...]: a new constant, or a Reshape of what varies or is large."""
    tail = (1,) * (rank - 2)
    array = constant_array(weight)
    if array is not None:
        return editor.constant(array.reshape(-1, *tail), f"{weight.name}_by_channel")
    shape = _integers([-1, *tail], editor)
    dims = dims_of(weight)
    length = None if dims is None else dims[0]
    return editor.insert(
        node,
        "Reshape",
        [weight, shape],
        name=f"{weight.name}_by_channel",
        dtype=weight.dtype,
        shape=[length, *tail],
    )
