"""A query or key that is multiplied by a number, as Attention's scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from passes.fusion.attention_scope import AttentionScope
from passes.matching import constant_number, input_at, integer, other_readers, producer_of, raised_rank

if TYPE_CHECKING:
    import onnx_ir as ir

_LEAST, _MOST = 1e-6, 1e6


def absorb_scale(node: ir.Node, scope: AttentionScope) -> None:
    """Move a constant factor of the query, or of the key without a cache, into the attribute `scale`."""
    for index in (0, 1):
        if index == 1 and (input_at(node, 4) is not None or len(node.outputs) > 1):
            continue  # the cache holds the scaled key
        value = node.inputs[index]
        product = producer_of(value, "Mul", "Div")
        if value is None or product is None or product.inputs[0] is None:
            continue
        number = constant_number(product.inputs[1])
        data = product.inputs[0]
        if number is None and product.op_type == "Mul" and product.inputs[1] is not None:
            number, data = constant_number(product.inputs[0]), product.inputs[1]
        if number is None or not math.isfinite(number) or number == 0:
            continue
        factor = number if product.op_type == "Mul" else 1 / number
        scale = current_scale(node, scope)
        shape = scope.facts.shape(data)
        reason = other_readers(value, node)
        if raised_rank((product,), data, rank=None if shape is None else len(shape)):
            reason = f"the factor of '{value.name}' has more axes than it"
        if scale is None or not _LEAST <= abs(scale * factor) <= _MOST or scale * factor < 0:
            reason = f"a scale of {factor:g} beside '{value.name}' is not one to merge"
        if sum(one is value for one in node.inputs) > 1:
            reason = f"'{value.name}' is read twice"
        if reason:
            scope.recorder.refuse(node, reason, "scale")
            continue
        if not scope.recorder.may_apply(node, "scale"):
            return
        assert scale is not None
        import onnx_ir as ir

        node.replace_input_with(index, data)
        node.attributes["scale"] = ir.AttrFloat32("scale", scale * factor)
        scope.editor.drop(product)


def current_scale(node: ir.Node, scope: AttentionScope) -> float | None:
    """Return the factor of the scores: the attribute, or one over the root of the head size."""
    given = node.attributes.get("scale")
    if given is not None:
        return given.as_float()
    shape = scope.facts.shape(node.inputs[0])
    width = None if not shape or shape[-1] is None else shape[-1].fixed
    if shape is None or width is None:
        return None
    heads = integer(node, "q_num_heads", 0) if len(shape) == 3 else 1
    return 1 / math.sqrt(width / heads) if heads and width else None
