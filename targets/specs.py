"""The inputs and outputs of a graph as TensorSpecs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from targets.base import Dim, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


def specs_from_values(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Return one spec a value, in order; a value without a rank has an empty shape, without a type "undefined"."""
    return tuple(TensorSpec(str(value.name), _dtype_name(value), _shape(value)) for value in values)


def model_inputs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return what a user must feed: the graph's inputs without those that an initializer of the same name fills."""
    return specs_from_values(value for value in model.graph.inputs if value.name not in model.graph.initializers)


def model_outputs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the graph's outputs."""
    return specs_from_values(model.graph.outputs)


def why_not_fed(spec: TensorSpec) -> str:
    """Return why a tensor of a type that is not among those of a target cannot be handed to it."""
    return "the model does not state its type" if spec.dtype == "undefined" else f"{spec.dtype} cannot be passed here"


def _dtype_name(value: ir.Value) -> str:
    if value.dtype is None:
        return "undefined"
    if value.dtype.is_string():
        return "string"  # numpy would say "object"
    try:
        return str(value.dtype.numpy())
    except TypeError:
        return value.dtype.name.lower()


def _shape(value: ir.Value) -> tuple[Dim, ...]:
    if value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
