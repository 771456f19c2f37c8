"""GroupNormalization and InstanceNormalization as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim, Dims
from passes.editing import Editor
from passes.fusion.norm_pattern import arithmetic_norm, next_with
from passes.matching import (
    constant_array,
    first_shared,
    input_at,
    integer,
    is_op,
    number,
    opset_of,
    producer_of,
    raised_rank,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_CHANNEL_SCALES = 21
"""GroupNormalization of opset 18 has one scale a group."""

TYPES = ("FLOAT", "FLOAT16")
"""The types that every runtime has a kernel of InstanceNormalization for."""

_MOST_SCALE_BYTES = 1 << 22  # of a LayerNormalization over one group: it goes, once it is known to be ones


@dataclass(frozen=True)
class FuseGroupNorm(Pass):
    """Raise norms over the places of a channel, or of a group of channels, to one operator.

    | form | becomes |
    |---|---|
    | Reshape to [N, G, ...], InstanceNormalization without scale and bias, Reshape back | GroupNormalization |
    | the same with (x - mean) / sqrt(variance + epsilon) over all axes after G, or a LayerNormalization | the same |
    | either with one channel a group | InstanceNormalization |
    | (x - mean) / sqrt(variance + epsilon) over all axes after the channels | InstanceNormalization |

    A scale, a bias or both that follow, constants with one number a channel, go in. A sequence [N, S, D] normalized
    over D is a LayerNormalization unless its scale or bias has one number for each of S.

    GroupNormalization is made with `groups` alone, for targets with a kernel of it: a runtime without one, such as ONNX
    Runtime on the CPU, takes it apart to more nodes than there were.

    Refuses when an inner value has another reader, a constant adds axes, the norm between the Reshapes has a scale or
    bias of its own, the number of channels is not fixed, the Reshapes do not part the channels, the data is neither
    float32 nor float16, or the opset has no GroupNormalization with a scale a channel.
    """

    name: ClassVar[str] = "fuse-group-norm"
    groups: bool = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph:
                    continue
                match = _between_reshapes(node, facts) or _over_places(node, facts)
                if match is not None:
                    _fuse(match, facts, recorder, editor, opset=opset_of(model), has_groups=self.groups)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Match:
    value: ir.Value
    groups: Dim | None
    epsilon: float
    inner: tuple[ir.Node, ...]
    last: ir.Node
    reason: str = ""  # why this near match is none

    @property
    def is_reshaped(self) -> bool:
        return is_op(self.last, "Reshape")


def _between_reshapes(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    if not is_op(node, "Reshape"):
        return None
    norm = producer_of(node.inputs[0], "InstanceNormalization", "LayerNormalization", "Div", "Mul")
    if norm is None:
        return None
    reason = ""
    inner: tuple[ir.Node, ...] = (norm,)
    if norm.op_type in ("InstanceNormalization", "LayerNormalization"):
        value, epsilon = norm.inputs[0], number(norm, "epsilon", 1e-5)
        if norm.op_type == "LayerNormalization" and not _is_over_groups(norm, facts.shape(value)):
            return None
        if not _is_plain(norm):
            reason = "the norm between the Reshapes has a scale or bias of its own"
    else:
        found = arithmetic_norm(norm, facts)
        shape = None if found is None else facts.shape(found.value)
        if found is None or shape is None or found.axes != tuple(range(2 - len(shape), 0)):
            return None
        value, epsilon, inner = found.value, found.epsilon, (*found.nodes, norm)
    first = producer_of(value, "Reshape")
    source = None if first is None else first.inputs[0]
    if first is None or source is None:
        return None
    before, parted = facts.shape(source), facts.shape(value)
    groups = None if parted is None or len(parted) < 3 else parted[1]
    if before is None or parted is None or len(before) < 3 or parted[:1] != before[:1] or before[0] is None:
        reason = reason or "the first Reshape does not part the channels into groups"
    elif not _is_same(before, facts.shape(node.outputs[0])):
        reason = reason or "the second Reshape does not return to the shape before the first"
    return _Match(source, groups, epsilon, (first, *inner), node, reason)


def _is_over_groups(norm: ir.Node, shape: Dims | None) -> bool:
    """Return whether a LayerNormalization gives its output alone, and normalizes over all axes after the second."""
    axis = integer(norm, "axis", -1)
    return shape is not None and axis in (2, 2 - len(shape)) and len(norm.outputs) == 1


def _is_plain(norm: ir.Node) -> bool:
    """Return whether the scale is one and the bias zero or absent, everywhere."""
    scale, bias = constant_array(norm.inputs[1], max_bytes=_MOST_SCALE_BYTES), input_at(norm, 2)
    shift = None if bias is None else constant_array(bias, max_bytes=_MOST_SCALE_BYTES)
    is_centred = bias is None or (shift is not None and bool((shift == 0).all()))
    return scale is not None and bool((scale == 1).all()) and is_centred


def _is_same(before: Dims, after: Dims | None) -> bool:
    """One axis may be unknown in both: a Reshape keeps the number of elements."""
    return before == after and sum(dim is None for dim in before) <= 1


def _over_places(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    found = arithmetic_norm(node, facts) if is_op(node, "Div", "Mul") else None
    shape = None if found is None else facts.shape(found.value)
    if found is None or shape is None or len(shape) < 3 or found.axes != tuple(range(2 - len(shape), 0)):
        return None
    if shape[1] is None or shape[1].fixed is None:
        return None  # a LayerNormalization may be made of it
    match = _Match(found.value, shape[1], found.epsilon, found.nodes, node)
    _, scale, bias = _scale_and_bias(node, shape[1], len(shape), facts)
    if len(shape) == 3 or _next(node, "Mul", shape[2:], len(shape), facts) is not None:
        return match if scale is not None or bias is not None else None
    return match


def _scale_and_bias(
    last: ir.Node, channels: Dim, rank: int, facts: ShapeFacts
) -> tuple[ir.Node, np.ndarray | None, np.ndarray | None]:
    """Return the last node of the norm, and the scale and the bias, arrays of shape (channels,)."""
    wanted = (channels, *(Dim(1),) * (rank - 2))
    arrays: list[np.ndarray | None] = []
    for op_type in ("Mul", "Add"):
        found = _next(last, op_type, wanted, rank, facts)
        array = None if found is None else constant_array(found[1])
        arrays.append(None if array is None else array.reshape(-1))
        if found is not None and array is not None:
            last = found[0]
    return last, arrays[0], arrays[1]


def _next(last: ir.Node, op_type: str, wanted: Dims, rank: int, facts: ShapeFacts) -> tuple[ir.Node, ir.Value] | None:
    return next_with(last.outputs[0], op_type, wanted, rank, facts)


def _fuse(
    match: _Match, facts: ShapeFacts, recorder: Recorder, editor: Editor, *, opset: int, has_groups: bool
) -> None:
    import numpy as np

    value, node = match.value, match.last
    shape = facts.shape(value) or ()
    reason = match.reason or _obstacle(match, shape, facts)
    channels = shape[1] if len(shape) > 1 else None
    is_instance = channels == match.groups
    if not reason and not is_instance and not has_groups:
        reason = "GroupNormalization is made for targets with a kernel of it (groups=true)"
    elif not reason and not is_instance and opset < OPSET_OF_CHANNEL_SCALES:
        reason = f"GroupNormalization with a scale a channel needs opset 21, the model has {opset}"
    if reason or channels is None or match.groups is None or value.dtype is None:
        recorder.refuse(node, reason)
        return
    op_type = "InstanceNormalization" if is_instance else "GroupNormalization"
    last, scale, bias = _scale_and_bias(node, channels, len(shape), facts)
    if not recorder.may_apply(node, op_type):
        return
    output, length, kind = last.outputs[0], channels.fixed or 0, value.dtype.numpy()
    weights = (np.ones(length, kind) if scale is None else scale, np.zeros(length, kind) if bias is None else bias)
    inputs = [
        editor.constant(array, f"{output.name}_{role}") for array, role in zip(weights, ("scale", "bias"), strict=True)
    ]
    attributes: dict[str, float | int] = {"epsilon": match.epsilon}
    if not is_instance:
        attributes["num_groups"] = match.groups.fixed or 0
    new = editor.insert(last, op_type, [value, *inputs], name=str(output.name), attributes=attributes, like=output)
    editor.take_over(output, new)


def _obstacle(match: _Match, shape: Dims, facts: ShapeFacts) -> str:
    channels = shape[1] if len(shape) > 1 else None
    if channels is None or channels.fixed is None or match.groups is None or match.groups.fixed is None:
        return "the number of channels or groups is not fixed"
    if match.groups.fixed < 1 or channels.fixed % match.groups.fixed:
        return "the first Reshape does not part the channels into groups"
    if match.value.dtype is None or match.value.dtype.name not in TYPES:
        return "the data is neither float32 nor float16"
    reason = first_shared(match.inner, match.last)
    if reason or any(one.graph is not match.last.graph for one in match.inner):
        return reason or "part of the norm lies in another graph"
    between = [one for one in match.inner if not is_op(one, "Reshape", "InstanceNormalization", "LayerNormalization")]
    if not between:
        return ""
    data = match.inner[0].outputs[0] if match.is_reshaped else match.value
    inner_shape = facts.shape(data)
    last = () if match.is_reshaped else (match.last,)
    return raised_rank((*between, *last), data, rank=None if inner_shape is None else len(inner_shape))
