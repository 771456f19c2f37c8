"""Word, position and segment embeddings and the norm over their sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim
from passes.editing import Editor
from passes.legalize.contrib import concerns_contrib, insert_contrib, lacks_kernel
from passes.matching import (
    constant_tensor,
    has_reference,
    input_at,
    integer,
    is_op,
    number,
    other_readers,
    producer_of,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_FUSED = "EmbedLayerNormalization"
_EPSILON = 1e-5  # of LayerNormalization, where the attribute is absent


@dataclass(frozen=True)
class FuseEmbeddingNorm(Pass):
    """Join the sum of embeddings and its LayerNormalization to com.microsoft EmbedLayerNormalization.

    The terms, in any order: words[ids] with ids [B, S]; positions[0 : S] or positions[position ids]; and segments[ids]
    or one row for all tokens, which is added to the positions. All tables are constants [.., H]. The ids are cast to
    int32. Ids count from the front: where Gather takes -1 for the last row, the fused operator stops with an error.
    Refuses when a part of the sum has other readers, a term is none of these or a shape does not provably fit, the norm
    has no shift or gives its mean, and types without a kernel.
    """

    name: ClassVar[str] = "fuse-embedding-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not concerns_contrib(context, _FUSED):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "LayerNormalization") or has_reference(node):
                    continue
                terms = list(_terms(node.inputs[0], node))
                if not 2 <= len(terms) <= 3 or not any(producer_of(term, "Gather") for term in terms):
                    continue
                found = _embedding(terms, facts)
                if found is None:
                    continue
                reason = _refusal(node, found, facts) or lacks_kernel(context, _FUSED, node.inputs[0])
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node):
                    _fuse(node, found, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Embedding:
    """words[ids] + positions[position_ids or 0..S] + segments[segment_ids], or + row."""

    words: ir.Value | None = None
    ids: ir.Value | None = None
    positions: ir.Value | None = None  # [P, H], or [1, P, H]
    length: Dim | None = None  # of the first rows of the positions
    position_ids: ir.Value | None = None
    segments: ir.Value | None = None
    segment_ids: ir.Value | None = None
    row: ir.Value | None = None


def _terms(value: ir.Value | None, reader: ir.Node) -> Iterator[ir.Value]:
    """Yield what is summed up to `value`, by additions that nothing else reads."""
    add = producer_of(value, "Add", "Sum")
    if value is None:
        return
    if add is None or add.graph is not reader.graph or other_readers(value, reader):
        yield value
        return
    for operand in add.inputs:
        yield from _terms(operand, add)


def _embedding(terms: list[ir.Value], facts: ShapeFacts) -> _Embedding | None:
    """Return what each term is; None where one is something else."""
    found = _Embedding()
    gathered = []
    for term in terms:
        gather, rows = producer_of(term, "Gather"), _first_rows(term, facts)
        if constant_tensor(term) is not None and found.row is None:
            found = replace(found, row=term)
        elif rows is not None and found.positions is None:
            found = replace(found, positions=rows[0], length=rows[1])
        elif gather is not None and integer(gather, "axis", 0) == 0 and constant_tensor(gather.inputs[0]) is not None:
            gathered.append((gather.inputs[0], gather.inputs[1]))
        else:
            return None
    if found.positions is None and len(gathered) >= 2:
        # Which table is which changes nothing: the three are summed. Position ids may be [1, S], others not.
        one = [pair for pair in gathered if (shape := facts.shape(pair[1])) and shape[0] == Dim(1)]
        table, place = one[0] if one else gathered[1]
        gathered.remove((table, place))
        found = replace(found, positions=table, position_ids=place)
    if found.positions is None or not gathered:
        return None
    found = replace(found, words=gathered[0][0], ids=gathered[0][1])
    if len(gathered) == 2:
        found = replace(found, segments=gathered[1][0], segment_ids=gathered[1][1])
    return found if len(gathered) <= 2 else None


def _first_rows(value: ir.Value, facts: ShapeFacts) -> tuple[ir.Value, Dim] | None:
    """Return the constant [1, P, H] or [P, H] that `value` is the first rows of, and how many."""
    rows = producer_of(value, "Slice")
    if rows is None or constant_tensor(rows.inputs[0]) is None or len(rows.inputs) < 4:
        return None
    shape = facts.shape(rows.inputs[0])
    starts, axes = facts.content(rows.inputs[1]), facts.content(rows.inputs[3])
    steps = facts.content(input_at(rows, 4))
    if shape is None or starts is None or axes is None or len(starts.elements) != 1 or len(axes.elements) != 1:
        return None
    if starts.elements[0] != Dim(0) or (
        input_at(rows, 4) is not None and (steps is None or steps.elements != (Dim(1),))
    ):
        return None
    ends = facts.content(rows.inputs[2])
    axis = axes.elements[0]
    place = len(shape) - 2
    if ends is None or axis is None or axis.fixed not in (place, -2) or len(shape) not in (2, 3):
        return None
    table, length = rows.inputs[0], ends.elements[0]
    if table is None or length is None or (len(shape) == 3 and shape[0] != Dim(1)):
        return None
    return table, length


def _refusal(node: ir.Node, found: _Embedding, facts: ShapeFacts) -> str:
    ids = facts.shape(found.ids)
    total = facts.shape(node.inputs[0])
    if ids is None or len(ids) != 2 or None in ids:
        return "the ids are not known to be of [B, S]"
    if total is None or len(total) != 3 or total[:2] != ids or total[2] is None or total[2].fixed is None:
        return "the sum is not provably of [B, S, H]"
    width = total[2]
    for table in (found.words, found.segments):
        shape = facts.shape(table)
        if table is not None and (shape is None or len(shape) != 2 or shape[1] != width):
            return f"the table '{table.name}' is not of [.., {width}]"
    rows = facts.shape(found.positions)
    if rows is None or rows[-1] != width or len(rows) != (2 if found.position_ids is not None else len(rows)):
        return "the positions are not of [.., H]"
    places = facts.shape(found.position_ids)
    if found.position_ids is not None and places not in (ids, (Dim(1), ids[1])):
        return "the position ids are not provably of [B, S] or [1, S]"
    if found.segment_ids is not None and facts.shape(found.segment_ids) != ids:
        return "the segment ids are not provably of [B, S]"
    row = facts.shape(found.row)
    if found.row is not None and (row is None or row[-1:] != (width,) or any(dim != Dim(1) for dim in row[:-1])):
        return f"'{found.row.name}' is not one row"
    if found.position_ids is None and found.length != ids[1]:
        return "the number of positions is not provably the length of the ids"
    return _norm_refusal(node, facts, width)


def _norm_refusal(node: ir.Node, facts: ShapeFacts, width: Dim) -> str:
    if integer(node, "axis", -1) not in (-1, 2) or integer(node, "stash_type", 1) != 1:
        return "the norm is not over the last axis, in float32"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "the mean or deviation of the norm is read"
    if any(facts.shape(input_at(node, index)) != (width,) for index in (1, 2)):
        return "scale and shift are not both of [H]"
    return ""


def _fuse(node: ir.Node, found: _Embedding, editor: Editor) -> None:
    positions = found.positions
    tensor = constant_tensor(positions)
    assert tensor is not None
    assert positions is not None
    if len(tensor.shape) == 3 or found.row is not None:
        array = tensor.numpy()
        positions = editor.constant(_plus_row(array.reshape(array.shape[-2:]), found.row), f"{positions.name}_table")
    ids, segment_ids, position_ids = (
        _int32(editor, node, value) for value in (found.ids, found.segment_ids, found.position_ids)
    )
    inputs = [ids, segment_ids, found.words, positions, found.segments, *node.inputs[1:3], None, position_ids]
    output = node.outputs[0]
    attributes = {"epsilon": number(node, "epsilon", _EPSILON)}
    fused = insert_contrib(editor, node, _FUSED, inputs, like=output, attributes=attributes, outputs=2)
    _name_mask_index(editor, fused, ids)
    editor.take_over(output, fused)


def _name_mask_index(editor: Editor, fused: ir.Value, ids: ir.Value | None) -> None:
    """Give the second output a name, which nothing reads: ONNX Runtime's type inference asks for it."""
    import onnx_ir as ir

    node = fused.producer()
    assert node is not None
    assert ids is not None
    index = node.outputs[1]
    index.name, index.type = editor.fresh_name(f"{fused.name}_mask_index"), ir.TensorType(ir.DataType.INT32)
    index.shape = None if ids.shape is None else ir.Shape(list(ids.shape)[:1])


def _plus_row(array: np.ndarray, row: ir.Value | None) -> np.ndarray:
    tensor = constant_tensor(row)
    return array if tensor is None else array + tensor.numpy().reshape(-1)


def _int32(editor: Editor, node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    import onnx_ir as ir

    if value is None or value.dtype == ir.DataType.INT32:
        return value
    to = {"to": int(ir.DataType.INT32)}
    name = f"{value.name}_int32"
    return editor.insert(node, "Cast", [value], name=name, dtype=ir.DataType.INT32, like=value, attributes=to)
