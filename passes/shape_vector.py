"""A shape as a tensor, computed from tensors at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from passes.dimensions import Dim

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.editing import Editor
    from passes.shapes import ShapeFacts


def shape_vector(
    before: ir.Node, dims: Sequence[Dim | None], tensors: Sequence[ir.Value], facts: ShapeFacts, editor: Editor
) -> Callable[[], ir.Value] | None:
    """Return a function that makes the int64 tensor of `dims` right before a node, and returns it.

    Each symbolic dimension is taken from an input of the model that has it, so that no intermediate tensor is kept for
    its shape alone; else from one of `tensors`. None where a dimension is unknown or no tensor has it; nothing is
    edited then.
    """
    tensors = [*editor.model.graph.inputs, *tensors]
    sources: list[int | tuple[ir.Value, int]] = []
    for dim in dims:
        if dim is None:
            return None
        if dim.fixed is not None:
            sources.append(dim.fixed)
            continue
        found = next(((t, shape.index(dim)) for t in tensors if (shape := facts.shape(t)) and dim in shape), None)
        if found is None:
            return None
        sources.append(found)
    return lambda: _build(before, sources, editor)


def _build(before: ir.Node, sources: Sequence[int | tuple[ir.Value, int]], editor: Editor) -> ir.Value:
    import numpy as np
    import onnx_ir as ir

    name = f"{before.outputs[0].name}_shape"
    fixed = [source for source in sources if isinstance(source, int)]
    if len(fixed) == len(sources):
        return editor.constant(np.array(fixed, dtype=np.int64), name)
    parts = []
    for source in sources:
        if isinstance(source, int):
            parts.append(editor.constant(np.array([source], dtype=np.int64), "length"))
            continue
        tensor, axis = source
        attributes = {"start": axis, "end": axis + 1}
        parts.append(
            editor.insert(
                before,
                "Shape",
                [tensor],
                name=f"{name}_{axis}",
                attributes=attributes,
                dtype=ir.DataType.INT64,
                shape=[1],
            )
        )
    if len(parts) == 1:
        return parts[0]
    return editor.insert(
        before, "Concat", parts, name=name, attributes={"axis": 0}, dtype=ir.DataType.INT64, shape=[len(parts)]
    )
