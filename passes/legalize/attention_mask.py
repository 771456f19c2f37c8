"""Masks of Attention in the forms that com.microsoft's attention operators take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from passes.dimensions import Dim, Dims
from passes.editing import Editor
from passes.matching import constant_array, constant_number, input_at, integer, producer_of
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

_MASK = 3  # the place of the mask among Attention's inputs
_MOVES = ("Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_HIDDEN = -1e30  # hides a key, and leaves a wholly hidden row finite
_HIDDEN_HALF = -3e4  # likewise in float16
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask that is understood.

    padding: which keys are seen (or hidden, with `is_hiding`), as booleans of [B, T] or [B, 1, 1, T], or as integers
    that are `seen` for those; `hidden` is then added to the scores of the others.
    is_zeroing: a row that is wholly hidden yields 0, where the fused operators give the average of all values.
    bias: or else what is added to the scores, of [B or 1, H or 1, S, T] or [S, T].
    reason: or else why it is not understood.
    """

    padding: ir.Value | None = None
    is_hiding: bool = False
    hidden: float = 0.0
    seen: int | None = None
    is_zeroing: bool = False
    bias: ir.Value | None = None
    reason: str = ""


def mask_of(node: ir.Node, facts: ShapeFacts, sizes: Dims) -> Mask:
    """Return what the mask of an Attention node says; `sizes` are its B, H, S and T."""
    import onnx_ir as ir

    mask = input_at(node, _MASK)
    if mask is None:
        return Mask()
    padding = _padding(mask, facts, sizes)
    is_causal = integer(node, "is_causal", 0) == 1
    if padding is not None and not (padding.is_zeroing and is_causal):
        is_half = padding.is_zeroing and _dtype(node) == ir.DataType.FLOAT16
        return replace(padding, hidden=_HIDDEN_HALF) if is_half else padding
    if mask.dtype == ir.DataType.BOOL:
        beside = "it is causal as well" if padding is not None else "it is not the same for all heads and queries"
        return Mask(reason=f"a row that '{mask.name}' hides wholly yields 0, and {beside}")
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


def _dtype(node: ir.Node) -> ir.DataType | None:
    return node.inputs[0].dtype if node.inputs[0] is not None else None


def _padding(mask: ir.Value, facts: ShapeFacts, sizes: Dims) -> Mask | None:
    """Return the padding that a mask spells, if it is the same for all heads and queries.

    The mask is seen itself, Where(seen, 0, hidden), or Where(u, hidden, u) with u = c - m of integers m: m is c, or its
    key is hidden.
    """
    import onnx_ir as ir

    if not _reaches(mask, facts, sizes):
        return None
    is_seen = mask.dtype == ir.DataType.BOOL
    found = Mask(padding=mask, hidden=_HIDDEN, is_zeroing=True) if is_seen else _added(mask, facts, sizes)
    if found is None or found.padding is None:
        return None
    batch, _, _, keys = sizes
    steps = [value for value in _steps(found.padding, facts, sizes) if _is_narrow(facts.shape(value), batch, keys)]
    return replace(found, padding=steps[-1]) if steps else None


def _added(mask: ir.Value, facts: ShapeFacts, sizes: Dims) -> Mask | None:
    """Return what an additive mask says, with booleans or integers that are still of its shape."""
    *_, last = (mask, *_steps(mask, facts, sizes))
    where = producer_of(last, "Where")
    if where is None or where.inputs[0] is None:
        return None
    chosen, other = constant_number(where.inputs[1]), constant_number(where.inputs[2])
    complement = _complement(where) if other is None else None
    if complement is not None and chosen is not None and chosen < 0:
        found = Mask(padding=complement[0], seen=complement[1], hidden=chosen)
    elif chosen is None or other is None or 0 not in (chosen, other):
        return None
    else:
        is_hiding = other == 0
        found = Mask(padding=where.inputs[0], is_hiding=is_hiding, hidden=chosen if is_hiding else other)
    if facts.shape(found.padding) != facts.shape(last) or not found.hidden < 0:
        return None
    return found if math.isfinite(found.hidden) else replace(found, hidden=_HIDDEN, is_zeroing=True)


def _steps(value: ir.Value | None, facts: ShapeFacts, sizes: Dims) -> Iterator[ir.Value]:
    """Yield what `value` was on the way, as long as that is provably one row of T for each of B, for all queries.

    A shape says so only with B in front: [S, T] could be of B = S rows.
    """
    batch, _, queries, keys = sizes
    if batch is None or keys is None:
        return
    while value is not None:
        shape = facts.shape(value)
        if shape is None or len(shape) not in (2, 3, 4) or shape[0] != batch or shape[-1] != keys:
            return
        if len(shape) > 2 and (shape[-2] not in (Dim(1), queries) or (len(shape) == 4 and shape[1] != Dim(1))):
            return
        yield value
        move = producer_of(value, *_MOVES)
        if move is None or (move.op_type == "Expand" and len(facts.shape(move.inputs[0]) or ()) != len(shape)):
            return
        value = move.inputs[0]


def _is_narrow(shape: Dims | None, batch: Dim | None, keys: Dim | None) -> bool:
    return shape in ((batch, keys), (batch, Dim(1), Dim(1), keys))


def _complement(where: ir.Node) -> tuple[ir.Value, int] | None:
    """Return m and c of Where(u, hidden, u) with u = c - m, where u is 0 just for the integers m that are c."""
    import onnx_ir as ir

    test, subtract = producer_of(where.inputs[0], "Cast"), producer_of(where.inputs[2], "Sub")
    if test is None or subtract is None or integer(test, "to", 0) != int(ir.DataType.BOOL):
        return None
    base, part = constant_number(subtract.inputs[0]), subtract.inputs[1]
    cast = producer_of(part, "Cast")
    numbers = cast.inputs[0] if cast is not None else part
    if test.inputs[0] is not where.inputs[2] or base not in (0, 1) or numbers is None or numbers.dtype is None:
        return None
    is_float = subtract.outputs[0].dtype is not None and subtract.outputs[0].dtype.name in ("FLOAT", "DOUBLE")
    return (numbers, int(base)) if is_float and numbers.dtype.name in _INTEGERS else None


def _reaches(mask: ir.Value, facts: ShapeFacts, sizes: Dims) -> bool:
    """Return whether the mask is [B, 1, S or 1, T], so that it says the same for all heads and queries."""
    batch, _, queries, keys = sizes
    shape = facts.shape(mask)
    return (
        shape is not None and len(shape) == 4 and shape[:2] == (batch, Dim(1)) and shape[3] == keys
        and shape[2] in (Dim(1), queries)
    )  # fmt: skip


def _is_finite(mask: ir.Value) -> bool:
    """Return whether an additive mask provably holds no infinity.

    The lowest float32 is a number: the standard adds it, and a row of it yields an average. (ONNX Runtime's kernel for
    the standard operator takes it for -inf.)
    """
    import numpy as np

    array = constant_array(mask, max_bytes=1 << 24)
    if array is not None:
        return bool(np.isfinite(array.astype(np.float64)).all())
    source = producer_of(mask, *_MOVES, "Slice", "Gather", "Transpose")
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
        key = (before.graph, source, mask.is_hiding, mask.seen)
        if key not in self._written:
            name, shape = str(source.name), self.facts.shape(source)
            value = source
            if shape is not None and len(shape) == 4:
                axes = self.editor.constant(np.array([1, 2], np.int64), f"{name}_axes")
                dims = [source.shape[0], source.shape[3]] if source.shape is not None else None
                value = self._insert(before, "Squeeze", [source, axes], f"{name}_keys", source.dtype, dims)
            if mask.seen is not None and source.dtype is not None:
                number = self.editor.constant(np.array(mask.seen, source.dtype.numpy()), f"{name}_one")
                value = self._insert(before, "Equal", [value, number], f"{name}_seen", ir.DataType.BOOL)
            if mask.is_hiding:
                value = self._insert(before, "Not", [value], f"{name}_seen", ir.DataType.BOOL)
            cast = {"to": int(ir.DataType.INT32)}
            self._written[key] = self._insert(before, "Cast", [value], f"{name}_int", ir.DataType.INT32, None, cast)
        return self._written[key]

    def zeroed(self, before: ir.Node, mask: Mask, result: ir.Value) -> ir.Value:
        """Return `result` [B, S, N] with 0 for each batch whose keys are all hidden, where the mask asks for that."""
        import numpy as np

        padding = self.padding(before, mask)
        if not mask.is_zeroing or padding is None or result.dtype is None:
            return result
        key = (before.graph, padding, result.dtype)
        if key not in self._written:
            name = str(padding.name)
            batch = list(padding.shape)[:1] if padding.shape is not None else []
            axis = self.editor.constant(np.array([1], np.int64), f"{name}_axis")
            value = self._insert(before, "ReduceMax", [padding, axis], f"{name}_any", padding.dtype, [*batch, 1])
            last = self.editor.constant(np.array([2], np.int64), f"{name}_last")
            value = self._insert(before, "Unsqueeze", [value, last], f"{name}_any_3d", padding.dtype, [*batch, 1, 1])
            cast = {"to": int(result.dtype)}
            self._written[key] = self._insert(before, "Cast", [value], f"{name}_kept", result.dtype, None, cast)
        name = f"{result.name}_rows"
        return self.editor.insert(before, "Mul", [result, self._written[key]], name=name, like=result)

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
