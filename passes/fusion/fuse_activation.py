"""Activation functions as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.fusion.activation_forms import ACTIVATIONS, Activation
from passes.fusion.forms import Found, find
from passes.matching import FLOATS, constant_tensor, first_shared, opset_of, raised_rank
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

_IN_DOUBLE = ("Relu", "Sigmoid", "Swish")
"""The operators that runtimes compute in double precision; of the others ONNX Runtime has no such kernel."""


@dataclass(frozen=True)
class FuseActivation(Pass):
    """Raise the expressions of HardSwish, HardSigmoid, Mish, Swish, LeakyRelu, Elu, Celu, Softsign, Sigmoid and Relu.

    | form (products and sums in any order; a clip also as Min of Max, or Min of Relu) | becomes |
    |---|---|
    | x * HardSigmoid(x), x * clip(x + 3, 0, 6) / 6 | HardSwish |
    | clip(a x + b, 0, 1), clip(x + c, 0, h) / h | HardSigmoid |
    | x * tanh(softplus(x)) | Mish |
    | x * sigmoid(alpha x), x / (1 + exp(-x)) | Swish, in opset 24 and later |
    | 1 / (1 + exp(-x)) | Sigmoid |
    | max(x, a x) with a in [0, 1], x > 0 ? x : a x | LeakyRelu |
    | x > 0 ? x : a (exp(x) - 1), max(x, 0) + min(a (exp(x) - 1), 0) | Elu |
    | max(x, 0) + min(a (exp(x / a) - 1), 0) | Celu |
    | x / (1 + abs(x)) | Softsign |
    | max(x, 0), clip(x, 0) | Relu |

    log(1 + exp(x)) and log(softmax(x)) stay: they overflow or underflow where Softplus and LogSoftmax do not. Refuses
    when an inner value has another reader, a constant adds axes, the model's opset has no such operator or none of this
    type, or the type is double, but for the three of which runtimes have double kernels: Relu, Sigmoid and Swish.
    A Clip without an upper bound keeps infinity finite where Relu does not; the two are taken for the same.
    """

    name: ClassVar[str] = "fuse-activation"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        by_last: dict[str, list[Activation]] = {}
        for activation in ACTIVATIONS:
            by_last.setdefault(activation.form.op_type, []).append(activation)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or node.domain != "" or len(node.outputs) != 1:
                    continue
                for activation in by_last.get(node.op_type, ()):
                    if _raise(node, activation, facts, opset_of(model), recorder, editor):
                        break
        return recorder.result()


def _raise(
    node: ir.Node, activation: Activation, facts: ShapeFacts, opset: int, recorder: Recorder, editor: Editor
) -> bool:
    """Return whether the node was of this form, and raised or refused."""
    output = node.outputs[0]
    if output.dtype is None or output.dtype.name not in FLOATS:
        return False
    tolerance = 2e-3 if output.dtype.name in ("FLOAT16", "BFLOAT16") else 1e-5
    found = find(activation.form, node, tolerance=tolerance)
    attributes = None if found is None else activation.attributes(found.numbers)
    if found is None or attributes is None or constant_tensor(found.values["x"]) is not None:
        return False
    if opset < activation.opset:
        if activation.op_type != "Swish":  # two nodes that no older opset can say better
            recorder.refuse(node, f"{activation.op_type} needs opset {activation.opset}, the model has {opset}")
        return activation.op_type != "Swish"
    value = found.values["x"]
    reason = _unlike_type(activation.op_type, opset, output.dtype.name) or _obstacle(found, node, value, facts)
    if reason:
        recorder.refuse(node, reason, activation.op_type)
        return True
    if recorder.may_apply(node, activation.op_type):
        new = editor.insert(
            node, activation.op_type, [value], name=str(output.name), attributes=attributes, like=output
        )
        editor.take_over(output, new)
    return True


def _unlike_type(op_type: str, opset: int, dtype: str) -> str:
    """Return why the operator does not take numbers of this type; empty when it does."""
    import onnx

    if dtype == "DOUBLE" and op_type not in _IN_DOUBLE:
        return f"runtimes have no {op_type} of doubles"
    taken = onnx.defs.get_schema(op_type, opset, "").type_constraints[0].allowed_type_strs
    return "" if f"tensor({dtype.lower()})" in taken else f"{op_type} of opset {opset} takes no {dtype}"


def _obstacle(found: Found, node: ir.Node, value: ir.Value, facts: ShapeFacts) -> str:
    inner = [one for one in found.nodes if one is not node]
    shape = facts.shape(value)
    reason = first_shared(inner, node)
    return reason or raised_rank(found.nodes, value, rank=None if shape is None else len(shape))
