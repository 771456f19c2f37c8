"""Give operands their full size where kernels read them without broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class MaterializeBroadcasts(Pass):
    """Expand the mask of Attention and the caches of RotaryEmbedding where one row or batch stands for all.

    Attention's mask may be [B, 1, 1, T], broadcast over the S queries: it becomes [B, 1, S, T]. A cache of
    RotaryEmbedding without position ids may be [1, S, D/2]: it becomes [B, S, D/2]. Kernels of runtimes, ONNX Runtime's
    for one, refuse the short forms. Nothing changes where the full size is already certain.
    """

    name: ClassVar[str] = "materialize-broadcasts"
    optional: ClassVar[bool] = False

    def run(self, model: ir.Model, context: Context) -> PassResult:
        record = context.recorder(self.name)
        editor = Editor(model)
        for node in tuple(model.graph.all_nodes()):
            if node.domain not in ("", "ai.onnx"):
                continue
            for index, axis, source_axis in _short_operands(node):
                if not record.may_apply(node):
                    return record.result()
                _expand(editor, node, index, axis=axis, source_axis=source_axis)
        return record.result()


def _short_operands(node: ir.Node) -> list[tuple[int, int, int]]:
    """Return (input index, its axis that is or may be 1, the first input's axis that gives the full size)."""
    if node.op_type == "Attention" and _has_input(node, 3):
        queries, mask = node.inputs[0], node.inputs[3]
        if queries is None or mask is None or queries.shape is None or mask.shape is None or len(mask.shape) < 2:
            return []
        axis = len(mask.shape) - 2
        return [(3, axis, len(queries.shape) - 2)] if _may_be_short(mask, axis, queries, len(queries.shape) - 2) else []
    if node.op_type == "RotaryEmbedding" and not _has_input(node, 3):
        data = node.inputs[0]
        caches = [(index, node.inputs[index]) for index in (1, 2)]
        return [
            (index, 0, 0)
            for index, cache in caches
            if data is not None and cache is not None and cache.shape is not None and _may_be_short(cache, 0, data, 0)
        ]
    return []


def _has_input(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _may_be_short(operand: ir.Value, axis: int, full: ir.Value, full_axis: int) -> bool:
    """Return whether the operand's size there is 1 while the full size is not, as far as the shapes tell.

    An unknown size counts as possibly 1; two sizes that are equal, by number or by symbol, do not.
    """
    assert operand.shape is not None
    assert full.shape is not None or full_axis == 0
    size = operand.shape[axis]
    wanted = full.shape[full_axis] if full.shape is not None else None
    if isinstance(size, int):
        return size == 1 and wanted != 1
    return size.value is None or size != wanted


def _expand(editor: Editor, node: ir.Node, index: int, *, axis: int, source_axis: int) -> None:
    operand, full = node.inputs[index], node.inputs[0]
    assert operand is not None
    assert full is not None
    assert operand.shape is not None
    base = f"{operand.name}_full"
    size = editor.insert(
        node, "Shape", [full], name=f"{base}_size", attributes={"start": source_axis, "end": source_axis + 1},
        dtype=_int64(), shape=[1],
    )  # fmt: skip
    rank = len(operand.shape)
    parts = [_ones(editor, axis), size, _ones(editor, rank - axis - 1)]
    target = editor.insert(
        node, "Concat", [part for part in parts if part is not None], name=f"{base}_shape", attributes={"axis": 0},
        dtype=_int64(), shape=[rank],
    )  # fmt: skip
    expanded = editor.insert(
        node, "Expand", [operand, target], name=base, like=operand, shape=_replaced(operand, axis, full, source_axis)
    )
    node.replace_input_with(index, expanded)


def _ones(editor: Editor, count: int) -> ir.Value | None:
    return editor.constant(np.ones(count, np.int64), f"ones_{count}") if count else None


def _replaced(operand: ir.Value, axis: int, full: ir.Value, full_axis: int) -> Sequence[int | str | None]:
    assert operand.shape is not None
    dims: list[int | str | None] = [dim if isinstance(dim, int) else dim.value for dim in operand.shape]
    wanted = full.shape[full_axis] if full.shape is not None else None
    dims[axis] = wanted if isinstance(wanted, int) or wanted is None else wanted.value
    return dims


def _int64() -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType.INT64
