"""The original: its source, the held-out and calibration samples, and what it answers to the held-out ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.evaluation.batches import vary_batches
from exporter.evaluation.padding import Padding, padding_of
from exporter.evaluation.references import ReferenceOutputs, record_references
from exporter.evaluation.tolerance import UserGate
from exporter.jobs import user_gates
from exporter.precisions import need_calibration, use_samples
from exporter.recipe import Recipe
from exporter.report.progress import Progress
from exporter.sample_hash import hash_of_samples
from exporter.samples import Samples, dims_from_samples, load_samples, missing_calibration_error, samples_from_example
from exporter.sources import open_source
from exporter.sources.base import Feeds, Source
from passes.errors import UsageError
from targets.base import PRECISIONS, DimRange, Precision, TensorSpec


@dataclass(frozen=True, slots=True)
class Original:
    """All that artifacts are made from and compared with.

    references: held-out samples and the original's outputs, on disk. calibration: None where there is none, or
    only fp32 is asked for.
    precision: what the original's own outputs are rounded to; nothing can be judged more finely than that.
    """

    source: Source
    sha256: str
    references: ReferenceOutputs
    calibration: Samples | None
    dims: Mapping[str, DimRange]
    gates: tuple[UserGate, ...]
    threads: int
    precision: Precision
    padding: Padding | None
    description: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def read_original(
    recipe: Recipe, *, work: Path, progress: Progress, gates: tuple[UserGate, ...] | None = None
) -> Original:
    """Return the source with its samples checked and its reference outputs recorded.

    Raises UsageError for a source or samples that don't fit, and when int8 or fp8 has no calibration samples.
    """
    gates = user_gates(recipe) if gates is None else gates
    progress.stage("load the original")
    if recipe.calibration is None and need_calibration(recipe.precisions):
        raise missing_calibration_error()
    is_used = use_samples(recipe.precisions)
    given = load_samples(recipe.samples) if recipe.samples is not None else None
    calibration = load_samples(recipe.calibration) if is_used and recipe.calibration is not None else None
    source = open_source(recipe.source, samples=given)
    inputs = source.inputs()
    _check_mask(recipe.padding_mask, inputs)
    _check_dims(recipe.dims, inputs)
    held_out = given.fitting(inputs) if given is not None else _example(source)
    calibration = calibration.fitting(inputs) if calibration is not None else None
    notes = [] if given is not None else ["Verified on the source's own example only: give --samples for more."]
    if calibration is not None and given is not None and hash_of_samples(calibration) == hash_of_samples(held_out):
        notes.append("Calibration and held-out samples are the same: the accuracy of low precisions is optimistic.")
    example = source.example()
    traced = {value.shape[0] for value in example.values() if value.ndim} if example is not None else set()
    varied = vary_batches(held_out, inputs, dims=recipe.dims, traced=traced)
    dims = dims_from_samples(inputs, held_out)
    progress.done()
    progress.stage("run the original")
    with source.reference(threads=recipe.thread_count) as reference:
        references = record_references(
            held_out, reference, work / "references", further=varied, advance=progress.advance
        )
    progress.done()
    dims = _widened(dims, dims_from_samples(inputs, _further_feeds(references))) | dict(recipe.dims)
    return Original(
        source=source,
        sha256=source.sha256(),
        references=references,
        calibration=calibration,
        dims=dims,
        gates=gates,
        threads=recipe.thread_count,
        precision=_precision_of(references),
        padding=padding_of(recipe.padding_mask, references) if recipe.padding_mask is not None else None,
        description={
            "held_out": recipe.samples or "the source's own example",
            "held_out_count": len(references) - references.further,
            "further_batches": references.further,
            "calibration": recipe.calibration if calibration is not None else None,
            "ranges": recipe.ranges if calibration is not None else None,
            "padding_mask": recipe.padding_mask,
            "dims": {name: [dim.minimum, dim.usual, dim.maximum] for name, dim in sorted(dims.items())},
        },
        notes=(*notes, *references.notes),
    )


def judged_precision(original: Original, precision: Precision) -> Precision:
    """Return the row of tolerances for a result in `precision`: the coarser of it and the original's own."""
    return max(precision, original.precision, key=PRECISIONS.index)


def _further_feeds(references: ReferenceOutputs) -> Iterator[Feeds]:
    """Yield the batches made of the user's samples that the original took: artifacts need serve no others."""
    further = replace(references, files=references.files[len(references) - references.further :])
    return (feeds for feeds, _ in further)


def _widened(own: Mapping[str, DimRange], further: Mapping[str, DimRange]) -> dict[str, DimRange]:
    """Return the ranges that cover both; what is usual is the user's samples' own."""
    return {
        name: DimRange(
            min(dim.minimum, further[name].minimum) if name in further else dim.minimum,
            dim.usual,
            max(dim.maximum, further[name].maximum) if name in further else dim.maximum,
        )
        for name, dim in own.items()
    }


def _precision_of(references: ReferenceOutputs) -> Precision:
    _, outputs = next(iter(references))
    names = {value.dtype.name for value in outputs.values()}
    return "bf16" if "bfloat16" in names else "fp16" if "float16" in names else "fp32"


def _example(source: Source) -> Samples:
    example = source.example()
    if example is None:
        raise UsageError(
            "There are no samples to verify on.",
            hint="Give --samples: an .npz, a folder of them, or file.py:function that yields dicts of arrays.",
        )
    return samples_from_example(example)


def _check_mask(name: str | None, inputs: Sequence[TensorSpec]) -> None:
    if name is None:
        return
    spec = next((spec for spec in inputs if spec.name == name), None)
    if spec is None:
        raise UsageError(
            f"The padding mask '{name}' is no input of the model.",
            hint=f"The inputs are: {', '.join(spec.name for spec in inputs)}",
        )
    if len(spec.shape) != 2:
        raise UsageError(f"The padding mask must be of shape [batch, sequence]; it is {spec}.")


def _check_dims(dims: Mapping[str, DimRange], inputs: Sequence[TensorSpec]) -> None:
    known = list(dict.fromkeys(dim for spec in inputs for dim in spec.shape if isinstance(dim, str)))
    for name in dims:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UsageError(
                f"There is no dimension '{name}' in the model's inputs.",
                hint=f"{hint}The inputs are: {'; '.join(map(str, inputs))}",
            )
