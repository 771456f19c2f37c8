"""What the rules of fuse-attention share: facts, editor, record, and how a new node gets its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.base import Recorder
from passes.dimensions import Dims, plain
from passes.editing import Editor
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class AttentionScope:
    """One run of the pass."""

    facts: ShapeFacts
    editor: Editor
    recorder: Recorder

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        shape: Dims | None,
        dtype: ir.DataType | None,
        attributes: Mapping[str, Any] | None = None,
        outputs: int = 1,
    ) -> ir.Value:
        """Return the first output of a new node, whose shape is recorded and stated."""
        stated = None if shape is None else [plain(dim) for dim in shape]
        new = self.editor.insert(
            before, op_type, inputs, name=name, attributes=attributes, dtype=dtype, shape=stated, outputs=outputs
        )
        if shape is not None:
            self.facts.shapes[new] = shape
        return new

    def state_shape(self, value: ir.Value, shape: Dims) -> None:
        """Record the shape, and write it into the value."""
        import onnx_ir as ir

        self.facts.shapes[value] = shape
        value.shape = ir.Shape([plain(dim) for dim in shape])


def has_cache(node: ir.Node) -> bool:
    """Return whether an Attention is given a cache, or its extended cache is read."""
    is_wanted = any(output.uses() or output.is_graph_output() for output in node.outputs[1:3])
    return is_wanted or any(value is not None for value in node.inputs[4:6])
