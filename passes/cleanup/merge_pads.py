"""Padding done by the operator that reads the padded tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, node_label
from passes.cleanup.keep_line_pads import is_faster_after_pad, keep_before_line
from passes.cleanup.local_rules import Rule, RuleScope, run_rules
from passes.cleanup.pad_amounts import Amounts, fill_of, pads_of, spatial_pads, total_pads
from passes.matching import (
    constant_number,
    input_at,
    integer,
    integers,
    is_op,
    producer_of,
    text,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_READERS = ("Conv", "AveragePool", "MaxPool")
_NON_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus")
_KEEPS_SIGN = ("Identity", "MaxPool", "AveragePool", "Transpose", "Reshape", "Cast")


@dataclass(frozen=True)
class MergePads(Pass):
    """Let Conv, AveragePool and MaxPool pad by themselves, and make two Pads one.

    | Pad | its readers | condition |
    |---|---|---|
    | zeros, on spatial axes | Conv | none |
    | zeros, on spatial axes | AveragePool | it counts the padding, or has none of its own |
    | -inf, on spatial axes | MaxPool | the indices are not read |
    | zeros, on spatial axes | MaxPool | as above, no dilation, and the padded tensor is nowhere negative |
    | constant or edge | Pad | the same mode and number |

    Refuses negative pads, other modes, auto_pad other than VALID, pools that round up or would pad a whole window, and
    a Pad that something else reads as well: it would have to stay. A Pad before a Conv over a line stays where
    `passes.line_padding` says that ONNX Runtime is faster so; it takes over the Conv's own padding and names its axes,
    since ONNX Runtime puts one without them into the Conv.
    """

    name: ClassVar[str] = "merge-pads"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        return run_rules(self.name, RULES, model, context)


def _pad_into_readers(pad: ir.Node, scope: RuleScope) -> bool:
    output = pad.outputs[0]
    readers = output.consumers()
    candidates = [reader for reader in readers if is_op(reader, *_READERS) and reader.inputs[0] is output]
    if not candidates:
        return False
    amounts, fill = pads_of(pad, scope), fill_of(pad)
    reason = ""
    if output.is_graph_output():
        reason = f"'{output.name}' is an output of the graph"
    elif len(candidates) < len(readers):
        other = next(reader for reader in readers if reader not in candidates)
        reason = f"output '{output.name}' also feeds {node_label(other)}"
    elif amounts is None or fill is None:
        reason = "the amounts or the number are not constant"
    elif text(pad, "mode", "constant") != "constant":
        reason = f"it pads by {text(pad, 'mode', '')}"
    elif any(amounts[0][:2]) or any(amounts[1][:2]):
        reason = "it pads the batch or the channels"
    elif min(*amounts[0], *amounts[1]) < 0:
        reason = "a negative amount cuts off"
    if not reason:
        assert amounts is not None
        assert fill is not None
        reason = next((why for reader in readers if (why := _why_not(pad, reader, amounts, fill))), "")
    if reason:
        scope.recorder.refuse(pad, reason, "pad-into-reader")
        return False
    assert amounts is not None
    if any(is_faster_after_pad(pad, reader, amounts, scope) for reader in readers):
        return keep_before_line(pad, amounts, scope)
    if not scope.recorder.may_apply(pad, "pad-into-reader"):
        return False
    for reader in readers:
        _take_pads(pad, reader, amounts)
    scope.editor.drop(pad)
    return True


def _why_not(pad: ir.Node, reader: ir.Node, amounts: Amounts, fill: float) -> str:
    label = node_label(reader)
    if any(value is pad.outputs[0] for value in reader.inputs[1:]):
        return f"{label} reads it as a weight"
    if text(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"{label} chooses its padding by {text(reader, 'auto_pad', '')}"
    if is_op(reader, "Conv"):
        return "" if fill == 0 else f"{label} pads zeros, not {fill:g}"
    kernel, spatial = integers(reader, "kernel_shape"), len(amounts[0]) - 2
    if kernel is None or len(kernel) != spatial:
        return f"{label} does not state its kernel"
    own = integers(reader, "pads") or (0,) * (2 * spatial)
    if any(
        new + old >= kernel[index % spatial]
        for index, (new, old) in enumerate(zip(spatial_pads(amounts), own, strict=True))
    ):
        return f"{label} would pad a whole window"
    if integer(reader, "ceil_mode", 0):
        return f"{label} rounds its size up"
    if is_op(reader, "AveragePool"):
        if fill != 0:
            return f"{label} pads zeros, not {fill:g}"
        counts = integer(reader, "count_include_pad", 0)
        return "" if counts or not any(own) else f"{label} does not count its own padding"
    if len(reader.outputs) > 1 and reader.outputs[1].uses():
        return f"the indices of {label} are read"
    if fill == float("-inf"):
        return ""
    if fill == 0 and is_non_negative(pad.inputs[0]):
        dilations = integers(reader, "dilations") or ()
        return f"{label} is dilated" if any(step != 1 for step in dilations) else ""
    return f"{label} pads -inf, not {fill:g}"


def is_non_negative(value: ir.Value | None, *, depth: int = 4) -> bool:
    """Return whether no element of `value` is below 0, by the operator that makes it."""
    node = None if value is None else value.producer()
    if node is None or depth == 0:
        return False
    if is_op(node, "Clip"):
        low, high = input_at(node, 1), input_at(node, 2)  # the upper one wins where they are in the wrong order
        bounds = [constant_number(bound) for bound in (low, high) if bound is not None]
        return low is not None and all(bound is not None and bound >= 0 for bound in bounds)
    if is_op(node, *_KEEPS_SIGN):
        return is_non_negative(node.inputs[0], depth=depth - 1)
    return is_op(node, *_NON_NEGATIVE)


def _take_pads(pad: ir.Node, reader: ir.Node, amounts: Amounts) -> None:
    import onnx_ir as ir

    if is_op(reader, "AveragePool"):
        reader.attributes.add(ir.AttrInt64("count_include_pad", 1))
    reader.attributes.pop("auto_pad", None)
    reader.attributes.add(ir.AttrInt64s("pads", total_pads(reader, amounts)))
    reader.replace_input_with(0, pad.inputs[0])


def _pad_of_pad(node: ir.Node, scope: RuleScope) -> bool:
    import numpy as np

    first = producer_of(node.inputs[0], "Pad")
    if first is None or first.graph is not node.graph or "pads" in node.attributes or "pads" in first.attributes:
        return False
    inner, outer = pads_of(first, scope), pads_of(node, scope)
    mode = text(node, "mode", "constant")
    if inner is None or outer is None or mode != text(first, "mode", "constant"):
        return False
    if mode not in ("constant", "edge"):
        scope.recorder.refuse(node, f"two Pads by {mode} are not one", "pad-pad")
        return False
    if mode == "constant" and (fill_of(first) is None or fill_of(first) != fill_of(node)):
        scope.recorder.refuse(node, f"{node_label(first)} pads another number", "pad-pad")
        return False
    if min(*inner[0], *inner[1], *outer[0], *outer[1]) < 0:
        scope.recorder.refuse(node, "a negative amount cuts off", "pad-pad")
        return False
    if not scope.recorder.may_apply(node, "pad-pad"):
        return False
    total = [
        before + after for one, two in zip(inner, outer, strict=True) for before, after in zip(one, two, strict=True)
    ]
    pads = scope.editor.constant(np.array(total, dtype=np.int64), f"{node.outputs[0].name}_pads")
    scope.put(node, "Pad", [first.inputs[0], pads, *node.inputs[2:3]], {"mode": mode})
    return True


RULES: dict[str, tuple[Rule, ...]] = {"Pad": (_pad_of_pad, _pad_into_readers)}
