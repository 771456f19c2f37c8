"""What the expansion of one com.microsoft node is, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.editing import Editor

if TYPE_CHECKING:
    import onnx_ir as ir

Replacements = list[tuple["ir.Value", "ir.Value"]]


def _nothing() -> Replacements:
    return []


@dataclass(frozen=True, slots=True)
class Form:
    """How to write a node in standard operators, or why not.

    write: inserts them, and returns each output that is read beside what takes its place.
    needs: the standard operators among them that older opsets lack.
    """

    write: Callable[[], Replacements] = _nothing
    needs: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Writer:
    """Inserts standard operators before one node."""

    node: ir.Node
    editor: Editor

    @property
    def dtype(self) -> ir.DataType | None:
        """The type of the node's data."""
        first = self.node.inputs[0]
        return self.node.outputs[0].dtype or (first.dtype if first is not None else None)

    def __call__(
        self, op_type: str, *inputs: ir.Value | None, suffix: str, dtype: ir.DataType | None = None, **attributes: Any
    ) -> ir.Value:
        """Return the first output of a new node; of the type of the node's data, unless told otherwise."""
        name = f"{self.node.outputs[0].name}_{suffix}"
        kind = dtype or self.dtype
        return self.editor.insert(self.node, op_type, inputs, name=name, attributes=attributes, dtype=kind)

    def parts(self, value: ir.Value, sizes: Sequence[int], axis: int, suffix: str) -> Sequence[ir.Value]:
        """Return the parts of `value`, of these sizes."""
        name = f"{self.node.outputs[0].name}_{suffix}"
        split = [value, self.integers(sizes, f"{suffix}_sizes")]
        first = self.editor.insert(
            self.node, "Split", split, name=name, attributes={"axis": axis}, dtype=self.dtype, outputs=len(sizes)
        )
        producer = first.producer()
        assert producer is not None
        return producer.outputs

    def integers(self, numbers: Sequence[int] | int, suffix: str) -> ir.Value:
        import numpy as np

        return self.editor.constant(np.array(numbers, np.int64), f"{self.node.outputs[0].name}_{suffix}")

    def number(self, value: float, suffix: str) -> ir.Value:
        import numpy as np

        assert self.dtype is not None
        return self.editor.constant(np.array(value, self.dtype.numpy()), f"{self.node.outputs[0].name}_{suffix}")


def is_read(node: ir.Node, *places: int) -> bool:
    """Return whether something reads one of these outputs."""
    outputs = [node.outputs[place] for place in places if place < len(node.outputs)]
    return any(output.uses() or output.is_graph_output() for output in outputs)
