"""The bounds on symbolic dimensions that a model needs, found by dry traces.

A graph may hold only for some sizes: positions sliced from a table of 512 rows bound the sequence by 512, and halving
and doubling a height gives it back only where it is even. jax proves shapes for all sizes that it is told of, so the
bound must be told. A first trace goes without bounds; only when it fails are those tried that its slices suggest, then
the ranges of the samples, then multiples of 2, 4, ... of the dimensions that the failures name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from passes.errors import Blocker
from targets.base import BuildOptions, DimRange, TensorSpec
from targets.specs import model_inputs
from targets.xla.backend import tracing
from targets.xla.lowering.program import Program
from targets.xla.settings import Settings
from targets.xla.symbols import expressions_of, fixed_specs, symbol_names, symbolic_inputs
from targets.xla.weights import stored_dtype, weights_of

if TYPE_CHECKING:
    import onnx_ir as ir


_FACTORS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Signature:
    """What the program is traced with.

    bounds: constraints on the symbols, in jax's notation ("sequence <= 512"). multiples: dimensions, by their names in
    the model, whose sizes are multiples of a number.
    """

    specs: tuple[TensorSpec, ...]
    bounds: tuple[str, ...] = ()
    multiples: Mapping[str, int] = field(default_factory=dict)
    blockers: tuple[Blocker, ...] = field(default=())

    def inputs(self) -> list[Any]:
        return symbolic_inputs(self.specs, self.bounds, self.multiples)

    def expressions(self) -> dict[str, str]:
        return expressions_of(self.specs, self.multiples)

    def restrictions(self) -> tuple[str, ...]:
        """Return in words to what sizes the program is restricted."""
        return (*self.bounds, *(f"{name} is a multiple of {factor}" for name, factor in self.multiples.items()))


def weight_shapes(model: ir.Model, settings: Settings) -> dict[str, Any]:
    """Return a jax.ShapeDtypeStruct for each weight, as it is stored."""
    import jax

    return {
        name: jax.ShapeDtypeStruct(tuple(tensor.shape), stored_dtype(tensor, settings.float_type))
        for name, tensor in weights_of(model).items()
    }


def signature_of(model: ir.Model, settings: Settings, options: BuildOptions) -> Signature:
    """Return the signature of the first dry trace that meets no blocker, or of the one that meets the fewest."""
    specs = model_inputs(model)
    if settings.shapes == "fixed":
        specs = tuple(fixed_specs(specs, options.dims))
    suggested: set[str] = set()
    tried: list[Signature] = []
    for signature in _bounded(specs, suggested, options.dims):
        found = _traced(model, settings, signature, suggested)
        if found is not None:
            tried.append(found)
            if not found.blockers:
                return found
    for signature in _in_multiples(specs, tried[0].blockers, options.dims):
        found = _traced(model, settings, signature, set())
        if found is not None and not found.blockers:
            return _with_fewest_multiples(model, settings, found, options.dims)
    return min(tried, key=lambda signature: len(signature.blockers))


def _with_fewest_multiples(
    model: ir.Model, settings: Settings, signature: Signature, dims: Mapping[str, DimRange]
) -> Signature:
    """Return a signature that is as free of blockers, without the multiples that nothing needs."""
    for name in signature.multiples:
        fewer = {other: factor for other, factor in signature.multiples.items() if other != name}
        bounds = _ranges(expressions_of(signature.specs, fewer), dims) if signature.bounds else ()
        found = _traced(model, settings, Signature(signature.specs, bounds, fewer), set())
        if found is not None and not found.blockers:
            signature = found
    return signature


def _traced(model: ir.Model, settings: Settings, signature: Signature, suggested: set[str]) -> Signature | None:
    """Return the signature with the blockers that its dry trace meets; None where its bounds contradict each other."""
    import jax

    found: list[Blocker] = []
    program = Program(model, settings.float_type, found, suggested_bounds=suggested)
    with tracing(settings.matmul_precision):
        weights = weight_shapes(model, settings)
        try:
            inputs = signature.inputs()
        except ValueError:
            return None
        jax.eval_shape(program, weights, inputs)
    return replace(signature, blockers=tuple(found))


def _bounded(specs: tuple[TensorSpec, ...], suggested: set[str], dims: Mapping[str, DimRange]) -> Iterator[Signature]:
    yield Signature(specs)
    names = symbol_names(specs)
    if not names:
        return
    if suggested:
        yield Signature(specs, tuple(sorted(suggested)))
    ranges = _ranges(names, dims)
    if ranges:
        yield Signature(specs, (*sorted(suggested), *ranges))
        yield Signature(specs, ranges)


def _in_multiples(
    specs: tuple[TensorSpec, ...], blockers: Sequence[Blocker], dims: Mapping[str, DimRange]
) -> Iterator[Signature]:
    """Yield signatures in which the dimensions that blockers name are multiples, as the samples' sizes are."""
    words = {word for blocker in blockers for word in re.findall(r"\w+", blocker.reason)}
    named = [name for name, plain in symbol_names(specs).items() if plain in words]
    for factor in _FACTORS:
        multiples = {name: factor for name in named if name not in dims or _has_only_multiples(dims[name], factor)}
        if multiples:
            yield Signature(specs, multiples=multiples)
            ranges = _ranges(expressions_of(specs, multiples), dims)
            if ranges:
                yield Signature(specs, ranges, multiples)


def _has_only_multiples(span: DimRange, factor: int) -> bool:
    return all(size % factor == 0 for size in (span.minimum, span.usual, span.maximum))


def _ranges(sizes: Mapping[str, str], dims: Mapping[str, DimRange]) -> tuple[str, ...]:
    return tuple(
        f"{size} {sign} {bound}" for name, size in sizes.items() if name in dims for sign, bound in _range(dims[name])
    )


def _range(span: DimRange) -> list[tuple[str, int]]:
    return [("<=", span.maximum)] + ([(">=", span.minimum)] if span.minimum > 1 else [])
