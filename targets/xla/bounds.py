"""The bounds on symbolic dimensions that a model needs, found by dry traces.

A graph may hold only for some sizes: positions sliced from a table of 512 rows bound the sequence by 512. jax proves
shapes for all sizes that it is told of, so the bound must be told. A first trace goes without bounds; only when it
fails are those tried that its slices suggest, then the ranges of the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from passes.errors import Blocker
from targets.base import BuildOptions, DimRange, TensorSpec
from targets.specs import model_inputs
from targets.xla.backend import tracing
from targets.xla.lowering.program import Program
from targets.xla.settings import Settings
from targets.xla.symbols import fixed_specs, symbol_names, symbolic_inputs
from targets.xla.weights import stored_dtype, weights_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Signature:
    """What the program is traced with. bounds: constraints on the symbols, in jax's notation ("sequence <= 512")."""

    specs: tuple[TensorSpec, ...]
    bounds: tuple[str, ...] = ()
    blockers: tuple[Blocker, ...] = field(default=())

    def inputs(self) -> list[Any]:
        return symbolic_inputs(self.specs, self.bounds)


def weight_shapes(model: ir.Model, settings: Settings) -> dict[str, Any]:
    """Return a jax.ShapeDtypeStruct for each weight, as it is stored."""
    import jax

    return {
        name: jax.ShapeDtypeStruct(tuple(tensor.shape), stored_dtype(tensor, settings.float_type))
        for name, tensor in weights_of(model).items()
    }


def signature_of(model: ir.Model, settings: Settings, options: BuildOptions) -> Signature:
    """Return the signature of the first dry trace that meets no blocker, or of the one that meets the fewest."""
    import jax

    specs = model_inputs(model)
    if settings.shapes == "fixed":
        specs = tuple(fixed_specs(specs, options.dims))
    suggested: set[str] = set()
    tried: list[Signature] = []
    for bounds in _attempts(specs, suggested, options.dims):
        found: list[Blocker] = []
        program = Program(model, settings.float_type, found, suggested_bounds=suggested)
        with tracing(settings.matmul_precision):
            weights = weight_shapes(model, settings)
            try:
                inputs = symbolic_inputs(specs, bounds)
            except ValueError:  # bounds that contradict each other
                continue
            jax.eval_shape(program, weights, inputs)
        tried.append(Signature(specs, bounds, tuple(found)))
        if not found:
            break
    return min(tried, key=lambda signature: len(signature.blockers))


def _attempts(
    specs: Sequence[TensorSpec], suggested: set[str], dims: Mapping[str, DimRange]
) -> Iterator[tuple[str, ...]]:
    yield ()
    names = symbol_names(specs)
    if not names:
        return
    if suggested:
        yield tuple(sorted(suggested))
    ranges = [
        f"{plain} {sign} {size}" for name, plain in names.items() if name in dims for sign, size in _range(dims[name])
    ]
    if ranges:
        yield (*sorted(suggested), *ranges)
        yield tuple(ranges)


def _range(span: DimRange) -> list[tuple[str, int]]:
    return [("<=", span.maximum)] + ([(">=", span.minimum)] if span.minimum > 1 else [])
