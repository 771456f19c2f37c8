"""What Attention takes as its mask: bias and mask as one, of [.., Sq, Skv]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from passes.dimensions import Dim, broadcast
from passes.fusion.attention_pattern import AttentionMatch
from passes.fusion.attention_scope import AttentionScope
from passes.matching import producer_of, raised_rank, with_constant
from passes.shape_vector import shape_vector

if TYPE_CHECKING:
    import onnx_ir as ir

# Hides a key as the lowest float32 does: a score below 1e22 vanishes beside it, so a row that is masked wholly still
# weighs all keys alike. Runtimes take the lowest float itself for -inf (ONNX Runtime 1.32 then yields a row of 0).
_HIDING = -1e30
WIDE_FLOATS = ("FLOAT", "BFLOAT16", "DOUBLE")


def mask_input(node: ir.Node, match: AttentionMatch, key: ir.Value, scope: AttentionScope) -> ir.Value | None:
    """Return the value for Attention's mask input, of [.., Sq, Skv], or None without a mask."""
    facts, editor = scope.facts, scope.editor
    mask, bias, condition = match.mask, match.bias, match.condition
    dtype = match.scores.query.dtype
    assert dtype is not None
    if condition is not None:
        if match.hidden == -math.inf and bias is None:
            mask = condition
        elif mask is None or match.hidden == -math.inf or (dtype.name in WIDE_FLOATS and match.hidden < _HIDING):
            hidden = match.hidden if match.hidden == -math.inf else _HIDING
            mask, bias = _where(node, condition, bias, hidden, dtype, scope), None
    if mask is None:
        return None
    if dtype.name in WIDE_FLOATS and mask is match.mask:
        mask = _raised(node, mask, scope)
    if bias is not None:
        shapes = [facts.shape(part) for part in (bias, mask)]
        mask = editor.insert(node, "Add", [bias, mask], name=f"{node.outputs[0].name}_bias", dtype=dtype)
        facts.shapes[mask] = broadcast(shapes) or ()
        scope.state_shape(mask, facts.shapes[mask])
    return _expanded(node, mask, match.scores.query, key, scope)


def _raised(node: ir.Node, mask: ir.Value, scope: AttentionScope) -> ir.Value:
    """Return the mask x * c, a c below the number that hides being replaced by that; another mask as it is."""
    import numpy as np

    product = producer_of(mask, "Mul")
    found = None if product is None else with_constant(product)
    if product is None or found is None or found[1] >= _HIDING or mask.dtype is None:
        return mask
    rank = len(scope.facts.shape(found[0]) or ())
    if raised_rank((product,), found[0], rank=rank):
        return mask
    number = scope.editor.constant(np.array(_HIDING, dtype=mask.dtype.numpy()), "mask_value")
    shape = scope.facts.shape(mask)
    return scope.insert(node, "Mul", [found[0], number], name=str(mask.name), shape=shape, dtype=mask.dtype)


def _where(
    node: ir.Node,
    condition: ir.Value,
    kept: ir.Value | None,
    hidden: float,
    dtype: ir.DataType,
    scope: AttentionScope,
) -> ir.Value:
    """Return Where(condition, kept or 0, hidden)."""
    import numpy as np

    facts, editor = scope.facts, scope.editor
    shapes = [facts.shape(condition)]
    if kept is None:
        kept = editor.constant(np.array(0.0, dtype=dtype.numpy()), "mask_value")
    else:
        shapes.append(facts.shape(kept))
    number = editor.constant(np.array(hidden, dtype=dtype.numpy()), "mask_value")
    mask = editor.insert(node, "Where", [condition, kept, number], name=f"{node.outputs[0].name}_mask", dtype=dtype)
    facts.shapes[mask] = broadcast(shapes) or ()
    scope.state_shape(mask, facts.shapes[mask])
    return mask


def _expanded(node: ir.Node, mask: ir.Value, query: ir.Value, key: ir.Value, scope: AttentionScope) -> ir.Value:
    """Expand the last two axes to [Sq, Skv], which ONNX Runtime asks for, and a rank of 3 to 4."""
    import numpy as np

    facts, editor = scope.facts, scope.editor
    shape = facts.shape(mask)
    assert shape is not None
    name = f"{node.outputs[0].name}_mask"
    if len(shape) == 3:
        axes = editor.constant(np.array([0], dtype=np.int64), "mask_axes")
        mask = editor.insert(node, "Unsqueeze", [mask, axes], name=name, dtype=mask.dtype)
        shape = (Dim(1), *shape)
        facts.shapes[mask] = shape
        scope.state_shape(mask, facts.shapes[mask])
    wanted = []
    for tensor, place in ((query, -2), (key, -1)):
        dims = facts.shape(tensor)
        assert dims is not None
        own = shape[place] if len(shape) >= -place else Dim(1)
        wanted.append((tensor, dims[2], own == dims[2]))
    if all(fits for _, _, fits in wanted) and len(shape) >= 2:
        return mask
    lengths = [Dim(1) if fits else dim for _, dim, fits in wanted]
    target = shape_vector(node, lengths, [query, key], facts, editor)
    assert target is not None  # query and key have these dimensions
    expanded = editor.insert(node, "Expand", [mask, target()], name=name, dtype=mask.dtype)
    facts.shapes[expanded] = (*shape[:-2], wanted[0][1], wanted[1][1])
    scope.state_shape(expanded, facts.shapes[expanded])
    return expanded
