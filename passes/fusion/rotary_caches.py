"""The caches that RotaryEmbedding reads: [B, S, D / 2], made of tables of full width, once for all layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims, plain
from passes.editing import Editor
from passes.matching import constant_array, constant_number, constant_tensor, input_at, integer, is_op
from passes.shape_rules import axes_of
from passes.shape_vector import shape_vector
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

_TABLE_BYTES = 1 << 23
_DEPTH = 10
_UNARY = ("Cast", "Cos", "Identity", "Neg", "Sin")


@dataclass(slots=True)
class CacheWriter:
    """Writes caches, and remembers them: layers share what they share in the original graph."""

    facts: ShapeFacts
    editor: Editor
    _halves: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _caches: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def reason_against(self, table: ir.Value, data: Dims) -> str:
        """Return why `table`, which multiplies `data` [B, H, S, D], cannot become a cache; empty when it can."""
        shape = self.facts.shape(table)
        if shape is None or not 2 <= len(shape) <= 4:
            return f"the shape of the table '{table.name}' is not known"
        padded = (Dim(1),) * (4 - len(shape)) + shape
        batch, heads, length, width = padded
        if heads != Dim(1) or length != data[2] or width != data[3] or batch not in (Dim(1), data[0]):
            return f"the table '{table.name}' is not of the shape [batch or 1, 1, sequence, head]"
        if not self._can_halve(table, _DEPTH):
            return f"the halves of the table '{table.name}' are not known to be equal"
        if batch == data[0]:
            return ""
        return "" if data[0] is not None and self.source_of(data[0]) else "no input of the model has the batch size"

    def source_of(self, dim: Dim) -> bool:
        """Return whether the dimension is a number or that of an input of the model."""
        shapes = [self.facts.shape(value) for value in self.editor.model.graph.inputs]
        return dim.fixed is not None or any(shape is not None and dim in shape for shape in shapes)

    def cache(self, before: ir.Node, table: ir.Value, batch: Dim | None) -> ir.Value:
        """Return the [B, S, D / 2] cache of a table that `reason_against` has nothing against."""
        key = (table, before.graph)
        if key not in self._caches:
            self._caches[key] = self._flat(before, self._half(self._without_heads(table)))
        return self.full_batch(before, self._caches[key], batch)

    def full_batch(self, before: ir.Node, cache: ir.Value, batch: Dim | None) -> ir.Value:
        """Return `cache` [1 or B, S, D / 2] for the whole batch: runtimes do not broadcast it."""
        shape = self.facts.shape(cache)
        if shape is None or shape[0] != Dim(1) or batch in (Dim(1), None):
            return cache
        key = (cache, before.graph, batch)
        if key not in self._caches:
            self._caches[key] = self._insert(
                before,
                "Expand",
                [cache, self._size(before, batch)],
                f"{cache.name}_batch",
                (batch, *shape[1:]),
                like=cache,
            )
        return self._caches[key]

    def _size(self, before: ir.Node, batch: Dim | None) -> ir.Value:
        """Return the tensor [batch, 1, 1]."""
        import numpy as np

        key = ("size", before.graph, batch)
        if key not in self._caches:
            size = shape_vector(before, [batch], [], self.facts, self.editor)
            assert size is not None  # source_of was asked
            ones = self.editor.constant(np.array([1, 1], dtype=np.int64), "ones")
            self._caches[key] = self._insert(before, "Concat", [size(), ones], "batch_size", (Dim(3),), axis=0)
        return self._caches[key]

    def _can_halve(self, value: ir.Value | None, depth: int) -> bool:
        if value is None or depth == 0:
            return False
        if value in self._halves:
            return True
        if constant_tensor(value) is not None:
            return self._half_of_constant(value)
        node = value.producer()
        rank = self._rank(value)
        if node is None or node.domain != "" or rank is None:
            return False
        if is_op(node, "Concat"):
            return (
                len(node.inputs) == 2
                and node.inputs[0] is node.inputs[1]
                and integer(node, "axis", 0) in (-1, rank - 1)
            )
        if is_op(node, *_UNARY):
            return self._can_halve(node.inputs[0], depth - 1)
        if is_op(node, "Mul", "Div", "Add", "Sub"):
            number, other = constant_number(node.inputs[1]), node.inputs[1]
            return (
                number is not None
                and len(self.facts.shape(other) or ()) <= rank
                and self._can_halve(node.inputs[0], depth - 1)
            )
        if is_op(node, "Unsqueeze"):
            axes = axes_of(node, self.facts)
            if axes is None or any(axis % rank == rank - 1 for axis in axes):
                return False
            return min(axes) >= 0 and self._can_halve(node.inputs[0], depth - 1)
        if is_op(node, "Gather"):
            inner = self._rank(node.inputs[0])
            return (
                inner is not None
                and inner > 1
                and integer(node, "axis", 0) % inner != inner - 1
                and self._can_halve(node.inputs[0], depth - 1)
            )
        if is_op(node, "Slice"):
            axes = axes_given(node, self.facts)
            is_other = axes is not None and all(axis % rank != rank - 1 for axis in axes)
            return is_other and self._can_halve(node.inputs[0], depth - 1)
        return False

    def _half_of_constant(self, value: ir.Value) -> bool:
        import numpy as np

        array = constant_array(value, max_bytes=_TABLE_BYTES)
        if array is None or array.ndim < 2 or array.shape[-1] % 2:
            return False
        half = array.shape[-1] // 2
        if not bool((array[..., :half] == array[..., half:]).all()):
            return False
        self._halves[value] = self.editor.constant(np.ascontiguousarray(array[..., :half]), f"{value.name}_half")
        return True

    def _rank(self, value: ir.Value | None) -> int | None:
        shape = self.facts.shape(value)
        return None if shape is None else len(shape)

    def _half(self, value: ir.Value) -> ir.Value:
        """Return the first half of the last axis, computed from halves."""
        if value in self._halves:
            return self._halves[value]
        node = value.producer()
        assert node is not None
        if is_op(node, "Concat"):
            half = node.inputs[0]
            assert half is not None
        else:
            inner = node.inputs[0]
            assert inner is not None
            shape, part = self.facts.shape(value), self._half(inner)
            width = (self.facts.shape(part) or (None,))[-1]
            half = self._insert(
                node,
                node.op_type,
                [part, *node.inputs[1:]],
                f"{value.name}_half",
                None if shape is None else (*shape[:-1], width),
                like=value,
                **dict(node.attributes.items()),
            )
        self._halves[value] = half
        return half

    def _without_heads(self, table: ir.Value) -> ir.Value:
        """Return the table [B, S, D] that Unsqueeze gave an axis of heads; else the table."""
        node, shape = table.producer(), self.facts.shape(table)
        if node is None or shape is None or len(shape) != 4 or not is_op(node, "Unsqueeze"):
            return table
        inner = node.inputs[0]
        return inner if inner is not None and axes_of(node, self.facts) == (1,) else table

    def _flat(self, before: ir.Node, half: ir.Value) -> ir.Value:
        """Return [.., 1, S, D / 2] as [.., S, D / 2], of rank 3."""
        import numpy as np

        shape = self.facts.shape(half)
        assert shape is not None
        if len(shape) == 3:
            return half
        is_deep = len(shape) == 4
        flat = (shape[0], *shape[2:]) if is_deep else (Dim(1), *shape)
        axes = self.editor.constant(np.array([1 if is_deep else 0], dtype=np.int64), "axes")
        op_type = "Squeeze" if is_deep else "Unsqueeze"
        return self._insert(before, op_type, [half, axes], f"{half.name}_flat", flat, like=half)

    def _insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        name: str,
        shape: Dims | None,
        *,
        like: ir.Value | None = None,
        **attributes: object,
    ) -> ir.Value:
        import onnx_ir as ir

        kind = like.dtype if like is not None else ir.DataType.INT64
        stated = None if shape is None else [plain(dim) for dim in shape]
        new = self.editor.insert(before, op_type, inputs, name=name, attributes=attributes, dtype=kind, shape=stated)
        if shape is not None:
            self.facts.shapes[new] = shape
        return new


def axes_given(node: ir.Node, facts: ShapeFacts) -> tuple[int, ...] | None:
    """Return the axes of a Slice that names them by number."""
    given = input_at(node, 3)
    content = facts.content(given)
    return None if given is None or content is None else content.fixed
