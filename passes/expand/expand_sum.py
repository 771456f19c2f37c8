"""Sums of several tensors as additions of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import is_op

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class ExpandSum(Pass):
    """Take Sum(a, b, c) apart to Add(Add(a, b), c), for runtimes that recognise their own patterns in Add."""

    name: ClassVar[str] = "expand-sum"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if not is_op(node, "Sum") or len(node.inputs) < 2 or not recorder.may_apply(node):
                    continue
                output, partial = node.outputs[0], node.inputs[0]
                for index, operand in enumerate(node.inputs[1:], start=2):
                    like = output if index == len(node.inputs) else None
                    partial = editor.insert(
                        node, "Add", [partial, operand], name=f"{output.name}_partial", like=like, dtype=output.dtype
                    )
                assert partial is not None
                editor.take_over(output, partial)
        return recorder.result()
