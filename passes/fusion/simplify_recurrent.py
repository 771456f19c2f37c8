"""LSTM, GRU and RNN without what an exporter wraps around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import (
    constant_array,
    constant_integers,
    constant_tensor,
    input_at,
    integer,
    integers,
    is_op,
    opset_of,
    producer_of,
    text,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_AXES = 13
"""From it on Squeeze takes its axes as an input."""

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_MOVES_ELEMENTS = (
    "Slice",
    "Expand",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Gather",
    "Identity",
    "Cast",
    "Split",
    "Tile",
)
_STATE_BYTES = 1 << 20
_DEEPEST = 8


@dataclass(frozen=True)
class SimplifyRecurrent(Pass):
    """Drop what LSTM, GRU and RNN do by themselves: initial states of zeros, and views of their one direction.

    | form | becomes |
    |---|---|
    | an initial state that is zeros, however made | no input: zeros are the default |
    | Y [T, 1, B, H], Transpose to [T, B, 1, H], Reshape to [T, B, H] | Squeeze of Y |
    | Y [T, 1, B, H], Reshape to [T, B, H] | Squeeze of Y |
    | Gather of the last step of that Squeeze, before or after a Transpose to [B, T, H] | Squeeze of Y_h |

    Refuses views before opset 13, whose Squeeze takes no axes as an input, and to take the last step from Y_h where it
    differs: the node runs backwards or in both directions, or sequences end before the last step.
    """

    name: ClassVar[str] = "simplify-recurrent"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not any(node.op_type in _STATES for graph in model.graphs() for node in graph):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph:
                    continue
                if is_op(node, *_STATES):
                    _drop_zero_states(node, recorder, editor)
                elif is_op(node, "Reshape"):
                    _squeeze(node, facts, recorder, editor)
                elif is_op(node, "Gather"):
                    _take_last(node, facts, recorder, editor)
        return recorder.result()


def _drop_zero_states(node: ir.Node, recorder: Recorder, editor: Editor) -> None:
    for index in _STATES[node.op_type]:
        state = input_at(node, index)
        if state is None or not _is_zero(state):
            continue
        if not recorder.may_apply(node, "zero state"):
            return
        producer = state.producer()
        node.replace_input_with(index, None)
        if producer is not None:
            editor.drop(producer)
    used = [index for index, value in enumerate(node.inputs) if value is not None]
    node.resize_inputs(used[-1] + 1)


def _is_zero(value: ir.Value | None, depth: int = 0) -> bool:
    """Return whether every element is 0, followed through nodes that only move elements."""
    if value is None or depth > _DEEPEST:
        return False
    if constant_tensor(value) is not None:
        array = constant_array(value, max_bytes=_STATE_BYTES)
        return array is not None and not np.any(array)
    node = value.producer()
    if is_op(node, "ConstantOfShape") and node is not None:
        fill = node.attributes.get("value")
        return fill is None or (not fill.is_ref() and not np.any(fill.as_tensor().numpy()))
    if is_op(node, "Concat") and node is not None:
        return all(_is_zero(part, depth + 1) for part in node.inputs)
    return node is not None and is_op(node, *_MOVES_ELEMENTS) and _is_zero(node.inputs[0], depth + 1)


def _sequence_of(value: ir.Value | None) -> ir.Node | None:
    """Return the recurrent node whose first output this is, where it has one direction."""
    node = producer_of(value, *_STATES)
    if node is None or value is not node.outputs[0] or integer(node, "layout", 0):
        return None
    return None if text(node, "direction", "forward") == "bidirectional" else node


def _squeeze(node: ir.Node, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    source = node.inputs[0]
    transpose = producer_of(source, "Transpose")
    if transpose is not None and integers(transpose, "perm") == (0, 2, 1, 3):
        source = transpose.inputs[0]
    if source is None or _sequence_of(source) is None:
        return
    shape, result = facts.shape(source), facts.shape(node.outputs[0])
    if shape is None or result is None or len(shape) != 4 or len(result) != 3:
        return
    if result != (shape[0], shape[2], shape[3]):
        recorder.refuse(node, f"the result is not provably '{source.name}' without its axis of one direction")
        return
    opset = opset_of(editor.model)
    if opset < OPSET_OF_AXES:
        recorder.refuse(node, f"Squeeze of given axes needs opset {OPSET_OF_AXES}, the model has {opset}")
        return
    if not recorder.may_apply(node, "squeeze"):
        return
    output = node.outputs[0]
    axis = editor.constant(np.array([1], dtype=np.int64), "axis_1")
    new = editor.insert(node, "Squeeze", [source, axis], name=str(output.name), like=output)
    facts.shapes[new] = result
    editor.take_over(output, new)


def _take_last(node: ir.Node, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    sequence, axis = node.inputs[0], integer(node, "axis", 0)
    transpose = producer_of(sequence, "Transpose")
    if transpose is not None and integers(transpose, "perm") == (1, 0, 2):
        sequence, axis = transpose.inputs[0], {0: 1, 1: 0}.get(axis % 3, 2)
    squeeze = producer_of(sequence, "Squeeze")
    axes = None if squeeze is None else constant_integers(input_at(squeeze, 1))  # opset 13 and later
    recurrent = None if squeeze is None or axes != [1] else _sequence_of(squeeze.inputs[0])
    steps = None if recurrent is None else facts.shape(recurrent.outputs[0])
    chosen = constant_integers(node.inputs[1])
    if recurrent is None or recurrent.graph is not node.graph or axis != 0 or chosen is None or len(chosen) != 1:
        return
    length = None if steps is None or steps[0] is None else steps[0].fixed
    if chosen[0] != -1 and (length is None or chosen[0] != length - 1):
        return
    index = constant_tensor(node.inputs[1])
    if index is None or len(index.shape) > 0:
        return
    reason = ""
    if text(recurrent, "direction", "forward") != "forward":
        reason = "the node runs backwards, so its last state is that of the first step"
    elif input_at(recurrent, 4) is not None:
        reason = "sequences may end before the last step"
    if reason:
        recorder.refuse(node, reason)
        return
    if not recorder.may_apply(node, "last step"):
        return
    output = node.outputs[0]
    state = _state_output(recurrent, editor)
    first = editor.constant(np.array([0], dtype=np.int64), "axis_0")
    new = editor.insert(node, "Squeeze", [state, first], name=str(output.name), like=output)
    editor.take_over(output, new)


def _state_output(node: ir.Node, editor: Editor) -> ir.Value:
    """Return Y_h [1, B, H], made an output of the node if it was left out."""
    import onnx_ir as ir

    if len(node.outputs) < 2:
        node.resize_outputs(2)
    state = node.outputs[1]
    if not state.name:
        state.name = editor.fresh_name(f"{node.outputs[0].name}_last")
    sequence = node.outputs[0]
    if state.type is None:
        state.type = sequence.type
    if state.shape is None and sequence.shape is not None and sequence.shape.rank() == 4:
        state.shape = ir.Shape(sequence.shape.dims[1:])
    return state
