"""Index arithmetic whose result is known: grids of running numbers, and tensors that hold one number throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.cleanup.fold_shapes import constant_shape
from passes.cleanup.index_grids import counts_in_order, strides_of
from passes.cleanup.known_values import is_running, uniform_number
from passes.dimensions import Dim, Dims, broadcasts_into
from passes.editing import Editor
from passes.matching import (
    constant_array,
    constant_integers,
    constant_tensor,
    input_at,
    integer,
    is_op,
    operand_pairs,
    producer_of,
)
from passes.shape_vector import shape_vector
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_TABLE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class FoldIndexArithmetic(Pass):
    """Simplify the index arithmetic that exporters write for masks and embeddings.

    GatherND at every position of a grid, in order, becomes Unsqueeze of its data. And with a tensor that is true
    throughout becomes Expand. Gather at one number throughout becomes Gather of one row, where its readers broadcast.
    Gather of a table at a slice of a constant becomes a slice of the table's rows. Gather of all rows in order, at
    i * length + j, becomes Reshape.
    """

    name: ClassVar[str] = "fold-index-arithmetic"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        scope = _Scope(infer_shapes(model), Editor(model), context.recorder(self.name))
        for graph in model.graphs():
            for node in list(graph):
                rule = RULES.get(node.op_type) if node.domain == "" else None
                if rule is not None and node.graph is graph:
                    rule(node, scope)
        return scope.recorder.result()


@dataclass(frozen=True, slots=True)
class _Scope:
    facts: ShapeFacts
    editor: Editor
    recorder: Recorder


def _gather_grid(node: ir.Node, scope: _Scope) -> None:
    """GatherND of data [D0, .., Dn] at indices [.., n + 1] that count each axis in order."""
    import numpy as np

    data, concat = scope.facts.shape(node.inputs[0]), producer_of(node.inputs[1], "Concat")
    indices = scope.facts.shape(node.inputs[1])
    if data is None or indices is None or concat is None or integer(node, "batch_dims", 0):
        return
    grid = indices[:-1]
    if integer(concat, "axis", 0) not in (-1, len(indices) - 1) or len(concat.inputs) != len(data):
        return
    axes = []
    for part, length in zip(concat.inputs, data, strict=True):
        axis = is_running(part, scope.facts)
        shape = scope.facts.shape(part)
        if axis is None or axis >= len(grid) or grid[axis] != length or shape is None or shape[-1] != Dim(1):
            return
        axes.append(axis)
    rest = [axis for axis in range(len(grid)) if axis not in axes]
    if axes != sorted(set(axes)) or any(grid[axis] != Dim(1) for axis in rest):
        return
    if not scope.recorder.may_apply(node, "gather-grid"):
        return
    output = node.outputs[0]
    inputs = [node.inputs[0], scope.editor.constant(np.array(rest, dtype=np.int64), f"{output.name}_axes")]
    new = scope.editor.insert(node, "Unsqueeze", inputs, name=str(output.name), like=output)
    scope.facts.shapes[new] = grid
    scope.editor.take_over(output, new)


def _and_true(node: ir.Node, scope: _Scope) -> None:
    output = node.outputs[0]
    target = scope.facts.shape(output)
    for known, kept in operand_pairs(node):
        if uniform_number(known, scope.facts) != 1 or constant_tensor(kept) is not None:
            continue
        shape = scope.facts.shape(kept)
        if target is None or shape is None:
            continue
        if shape == target or uniform_number(kept, scope.facts) == 1:
            continue  # remove-identities and the reader's own rule deal with these
        vector = _vector(node, target, shape, scope)
        if vector is None or not scope.recorder.may_apply(node, "and-true"):
            return
        new = scope.editor.insert(node, "Expand", [kept, vector()], name=str(output.name), like=output)
        scope.facts.shapes[new] = target
        scope.editor.take_over(output, new)
        return


def _vector(node: ir.Node, target: Dims, shape: Dims, scope: _Scope) -> Callable[[], ir.Value] | None:
    """Return what makes the shape to expand `shape` to `target` with: 1 where the dimension is there already."""
    padded = (Dim(1),) * (len(target) - len(shape)) + shape
    wanted: list[Dim | None] = [Dim(1) if own == whole else whole for own, whole in zip(padded, target, strict=True)]
    while len(wanted) > 1 and wanted[0] == Dim(1) and len(wanted) > len(shape):
        wanted.pop(0)
    first = next((index for index, dim in enumerate(wanted) if dim != Dim(1)), len(wanted) - 1)
    tensors = [value for value in _ancestors(node) if value is not None]
    return shape_vector(node, wanted[first:], tensors, scope.facts, scope.editor)


def _ancestors(node: ir.Node, depth: int = 6) -> Sequence[ir.Value]:
    """Return the values that `node` depends on within a few steps, the nearest first."""
    found: dict[ir.Value, None] = {}
    front = [node]
    for _ in range(depth):
        following: list[ir.Node] = []
        for step in front:
            for value in step.inputs:
                if value is not None and value not in found:
                    found[value] = None
                    producer = value.producer()
                    if producer is not None and producer.graph is node.graph:
                        following.append(producer)
        front = following
    return list(found)


def _gather_row(node: ir.Node, scope: _Scope) -> None:
    """Gather of a table at one number throughout: one row, where every reader broadcasts it."""
    import numpy as np

    table, output = constant_tensor(node.inputs[0]), node.outputs[0]
    at = uniform_number(node.inputs[1], scope.facts)
    shape = scope.facts.shape(output)
    if table is None or at is None or integer(node, "axis", 0) != 0 or shape is None:
        return
    rows, readers = table.shape.numpy()[0], output.consumers()
    if output.is_graph_output() or not readers or not -rows <= at < rows:
        return
    for reader in readers:
        others = [scope.facts.shape(value) for value in reader.inputs if value is not output]
        if not is_op(reader, "Add", "Mul", "Sub") or not any(broadcasts_into(shape, other) for other in others):
            return
    if scope.recorder.may_apply(node, "gather-row"):
        row = scope.editor.constant(np.array(table.numpy()[int(at)]), f"{output.name}_row")
        output.replace_all_uses_with(row)
        scope.editor.drop(node)


def _gather_slice(node: ir.Node, scope: _Scope) -> None:
    """Gather(table, Slice(constant)) is Slice(Gather(table, constant)), and the inner Gather is a constant."""
    import numpy as np

    table, cut = constant_tensor(node.inputs[0]), producer_of(node.inputs[1], "Slice")
    if table is None or cut is None or integer(node, "axis", 0) != 0 or len(cut.inputs) < 3:
        return
    indices, axes = constant_array(cut.inputs[0]), constant_integers(input_at(cut, 3))
    steps = input_at(cut, 4)
    if indices is None or axes is None or len(axes) != 1 or (steps is not None and constant_integers(steps) != [1]):
        return
    shape = table.shape.numpy()
    size = int(indices.size * np.prod(shape[1:], dtype=np.int64)) * table.dtype.itemsize
    if size > min(_TABLE_BYTES, table.nbytes) or indices.size == 0 or not shape[0] > int(indices.max()):
        return
    if int(indices.min()) < -shape[0] or not scope.recorder.may_apply(node, "gather-slice"):
        return
    output, rank = node.outputs[0], indices.ndim
    rows = scope.editor.constant(table.numpy()[indices], f"{output.name}_rows")
    axis = scope.editor.constant(np.array([axes[0] % rank], dtype=np.int64), f"{output.name}_axis")
    inputs = [rows, cut.inputs[1], cut.inputs[2], axis]
    new = scope.editor.insert(node, "Slice", inputs, name=str(output.name), like=output)
    known = scope.facts.shape(output)
    if known is not None:
        scope.facts.shapes[new] = known
    scope.editor.take_over(output, new)


def _gather_all_rows(node: ir.Node, scope: _Scope) -> None:
    """Gather of data [I * J, ..] at indices i * J + j of shape [I, 1, J]: a Reshape to [I, 1, J, ..]."""
    import numpy as np

    data, grid = scope.facts.shape(node.inputs[0]), scope.facts.shape(node.inputs[1])
    if not data or not grid or integer(node, "axis", 0) != 0:
        return
    strides = strides_of(node.inputs[1], scope.facts)
    if strides is None or len(strides) < 2 or not counts_in_order(strides, grid, data[0]):
        return
    source, target = node.inputs[0], (*grid, *data[1:])
    wanted = constant_shape(data, target, allow_zero=False)
    while isinstance(wanted, str) and (step := producer_of(source, "Reshape", "Flatten")) is not None:
        source = step.inputs[0]
        wanted = constant_shape(scope.facts.shape(source), target, allow_zero=False)
    if isinstance(wanted, str):
        scope.recorder.refuse(node, wanted, "gather-all-rows")
        return
    if not scope.recorder.may_apply(node, "gather-all-rows"):
        return
    output = node.outputs[0]
    vector = scope.editor.constant(np.array(wanted, dtype=np.int64), f"{output.name}_shape")
    new = scope.editor.insert(node, "Reshape", [source, vector], name=str(output.name), like=output)
    scope.facts.shapes[new] = target
    scope.editor.take_over(output, new)


def _gather(node: ir.Node, scope: _Scope) -> None:
    _gather_row(node, scope)
    if node.graph is not None:
        _gather_all_rows(node, scope)
    if node.graph is not None:
        _gather_slice(node, scope)


RULES: dict[str, Callable[[ir.Node, _Scope], None]] = {
    "And": _and_true,
    "Gather": _gather,
    "GatherND": _gather_grid,
}
