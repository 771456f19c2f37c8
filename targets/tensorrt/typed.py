"""A graph whose values all have a type."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def typed(model: ir.Model) -> ir.Model:
    """Return `model` itself when every value has a type, else a copy, sharing weights, with types inferred.

    Where inference fails (an unknown operator), values after it stay untyped.
    """
    from onnx_ir.passes.common import ShapeInferencePass

    if all(value.dtype is not None for node in model.graph for value in node.outputs if value.name):
        return model
    copy = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    return copy
