"""Masks of Attention in the forms that com.microsoft's attention operators take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims
from passes.editing import Editor
from passes.matching import constant_array, constant_number, input_at, producer_of
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

_MASK = 3  # the place of the mask among Attention's inputs
_MOVES = ("Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask that is understood.

    padding: which keys are seen (or hidden, with `is_hiding`), as booleans of [B, T] or [B, 1, 1, T]; `hidden` is then
    added to the scores of the others.
    bias: or else what is added to the scores, of [B or 1, H or 1, S, T] or [S, T].
    reason: or else why it is not understood.
    """

    padding: ir.Value | None = None
    is_hiding: bool = False
    hidden: float = 0.0
    bias: ir.Value | None = None
    reason: str = ""


def mask_of(node: ir.Node, facts: ShapeFacts, sizes: Dims) -> Mask:
    """Return what the mask of an Attention node says; `sizes` are its B, H, S and T."""
    import onnx_ir as ir

    mask = input_at(node, _MASK)
    if mask is None:
        return Mask()
    if mask.dtype == ir.DataType.BOOL:
        return Mask(reason=f"a row that '{mask.name}' hides wholly yields 0; a boolean mask gives other numbers there")
    padding = _padding(mask, facts, sizes)
    if padding is not None:
        return padding
    if not _is_finite(mask):
        return Mask(reason=f"'{mask.name}' may hold -inf: a row that it hides wholly yields 0, NaN in the fused form")
    shape = facts.shape(mask)
    batch, heads, queries, keys = sizes
    if shape is None or len(shape) not in (2, 4) or None in sizes or shape[-2:] != (queries, keys):
        return Mask(reason=f"the mask '{mask.name}' is not provably of [.., S, T]")
    one = Dim(1)
    if len(shape) == 4 and not (shape[0] in (one, batch) and shape[1] in (one, heads)):
        return Mask(reason=f"the mask '{mask.name}' does not provably broadcast over batch and heads")
    return Mask(bias=mask)


def _padding(mask: ir.Value, facts: ShapeFacts, sizes: Dims) -> Mask | None:
    """Return the padding that Where(seen, 0, hidden) spells, if it is the same for all heads and queries."""
    where = producer_of(_moved(mask), "Where")
    if where is None or where.inputs[0] is None:
        return None
    chosen, other = constant_number(where.inputs[1]), constant_number(where.inputs[2])
    if chosen is None or other is None or 0 not in (chosen, other):
        return None
    is_hiding, hidden = other == 0, chosen if other == 0 else other
    if not (math.isfinite(hidden) and hidden < 0):
        return None
    batch, _, _, keys = sizes
    one = Dim(1)
    source: ir.Value | None = where.inputs[0]
    found = None
    while source is not None:
        shape = facts.shape(source)
        if batch is None or keys is None or shape is None:
            return None
        if shape in ((batch, keys), (batch, one, one, keys)):
            found = source
        move = producer_of(source, *_MOVES)
        if move is None or len(shape) == 2:
            break
        source = move.inputs[0]
    if found is None or not _reaches(mask, facts, sizes):
        return None
    return Mask(padding=found, is_hiding=is_hiding, hidden=hidden)


def _moved(value: ir.Value) -> ir.Value:
    """Return what `value` was before it was expanded or its axes were moved."""
    move = producer_of(value, *_MOVES)
    while move is not None and move.inputs[0] is not None:
        value = move.inputs[0]
        move = producer_of(value, *_MOVES)
    return value


def _reaches(mask: ir.Value, facts: ShapeFacts, sizes: Dims) -> bool:
    """Return whether the mask is [B, 1, S or 1, T], so that it says the same for all heads and queries."""
    batch, _, queries, keys = sizes
    shape = facts.shape(mask)
    return (
        shape is not None and len(shape) == 4 and shape[:2] == (batch, Dim(1)) and shape[3] == keys
        and shape[2] in (Dim(1), queries)
    )  # fmt: skip


def _is_finite(mask: ir.Value) -> bool:
    """Return whether an additive mask provably holds neither infinities nor the lowest float32, taken for one."""
    import numpy as np

    array = constant_array(mask, max_bytes=1 << 24)
    if array is not None:
        return bool((np.abs(array.astype(np.float64)) < np.finfo(np.float32).max).all())
    source = producer_of(mask, *_MOVES, "Slice", "Gather")
    if source is not None and source.inputs[0] is not None:
        return _is_finite(source.inputs[0])
    where = producer_of(mask, "Where")
    return where is not None and all(value is not None and _is_finite(value) for value in where.inputs[1:])


@dataclass(slots=True)
class MaskWriter:
    """Writes masks of the wanted form into the graph, each of them once."""

    editor: Editor
    facts: ShapeFacts
    _written: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def padding(self, before: ir.Node, mask: Mask) -> ir.Value | None:
        """Return the padding as int32 of [B, T], 1 for the keys that are seen."""
        import numpy as np
        import onnx_ir as ir

        source = mask.padding
        if source is None:
            return None
        key = (before.graph, source, mask.is_hiding)
        if key not in self._written:
            name, shape = str(source.name), self.facts.shape(source)
            value = source
            if shape is not None and len(shape) == 4:
                axes = self.editor.constant(np.array([1, 2], np.int64), f"{name}_axes")
                dims = [source.shape[0], source.shape[3]] if source.shape is not None else None
                value = self._insert(before, "Squeeze", [source, axes], f"{name}_keys", source.dtype, dims)
            if mask.is_hiding:
                value = self._insert(before, "Not", [value], f"{name}_seen", ir.DataType.BOOL)
            cast = {"to": int(ir.DataType.INT32)}
            self._written[key] = self._insert(before, "Cast", [value], f"{name}_int", ir.DataType.INT32, None, cast)
        return self._written[key]

    def bias(self, before: ir.Node, mask: Mask) -> ir.Value | None:
        """Return what is added to the scores, of rank 4."""
        import numpy as np

        value = mask.bias
        if value is None or len(self.facts.shape(value) or ()) == 4:
            return value
        key = (before.graph, value)
        if key not in self._written:
            axes = self.editor.constant(np.array([0, 1], np.int64), f"{value.name}_axes")
            dims = [1, 1, *value.shape] if value.shape is not None else None
            self._written[key] = self._insert(before, "Unsqueeze", [value, axes], f"{value.name}_4d", value.dtype, dims)
        return self._written[key]

    def _insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType | None,
        dims: list[int | ir.SymbolicDim] | None = None,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        plain = None if dims is None else [dim if isinstance(dim, int) else dim.value for dim in dims]
        return self.editor.insert(
            before, op_type, inputs, name=name, dtype=dtype, shape=plain, like=inputs[0], attributes=attributes
        )
