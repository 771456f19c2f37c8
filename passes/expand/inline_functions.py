"""Model-local functions, written out where they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Replace every call of a model function by its body, and drop the function.

    Refuses a function whose operator set versions differ from the model's, that calls itself, or that takes a graph as
    a parameter.
    """

    name: ClassVar[str] = "inline-functions"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not model.functions:
            return recorder.result()
        chosen: set[ir.OperatorIdentifier] = set()
        for key, function in model.functions.items():
            label = "::".join(part for part in key if part)
            reason = _refusal(key, function, model)
            if reason:
                recorder.refuse(label, reason)
            elif recorder.may_apply(label):
                chosen.add(key)
        if chosen:
            from onnx_ir.passes.common import InlinePass

            InlinePass(criteria=lambda function: function.identifier() in chosen)(model)
            for key in chosen:
                model.functions.pop(key, None)
        return recorder.result()


def _refusal(key: ir.OperatorIdentifier, function: ir.Function, model: ir.Model) -> str:
    for domain, version in function.opset_imports.items():
        own = model.opset_imports.get(domain, version)
        if own != version:
            return f"it uses opset {version} of '{domain or 'ai.onnx'}', the model {own}"
    if any("GRAPH" in attribute.type.name for attribute in function.attributes.values()):
        return "it takes a graph as a parameter"
    return "it calls itself" if _reaches(key, key, model) else ""


def _reaches(start: ir.OperatorIdentifier, goal: ir.OperatorIdentifier, model: ir.Model) -> bool:
    seen: set[ir.OperatorIdentifier] = set()
    pending = [start]
    while pending:
        function = model.functions.get(pending.pop())
        if function is None:
            continue
        for node in function.all_nodes():
            called = node.op_identifier()
            if called == goal:
                return True
            if called in model.functions and called not in seen:
                seen.add(called)
                pending.append(called)
    return False
