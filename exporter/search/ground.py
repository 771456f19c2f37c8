"""What the searches of all targets share: the split calibration data, its ranges, and what their findings depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.environment import describe_environment
from exporter.evaluation.references import ReferenceOutputs, record_references
from exporter.graphs import MODEL_FILE, Graphs
from exporter.sample_hash import hash_of_samples
from exporter.search.code import hash_of_own_code
from exporter.search.sensitivity import chosen_samples
from exporter.search.splitting import split
from exporter.timing import timing_feeds
from targets.manifest import sha256_of

if TYPE_CHECKING:
    from exporter.original import Original
    from exporter.recipe import Recipe
    from exporter.report.progress import Progress
    from exporter.sources.base import Feeds


@dataclass(frozen=True, slots=True)
class Ground:
    """What the searches of all targets share: ranges, validation samples with the original's outputs, and a hash."""

    graphs: Graphs
    references: ReferenceOutputs
    sensed: tuple[Feeds, ...]
    timed: tuple[Feeds, ...]
    facts: dict[str, Any]
    calibration_samples: int


def prepare(
    recipe: Recipe, original: Original, graphs: Graphs, *, staging: Path, work: Path, progress: Progress
) -> Ground:
    """Return the ground of every search: the calibration data is split, one part calibrates, the other one judges.

    Raises UsageError where there are too few samples.
    """
    from passes.quantize.calibrate import calibrate

    assert original.calibration is not None
    calibration, validation = split(original.calibration)
    progress.stage("calibrate for the search")
    ranges = calibrate(
        graphs.optimized,
        calibration,
        method=recipe.ranges,
        threads=original.threads,
        progress=lambda _: progress.advance(),
    )
    progress.done()
    progress.stage("run the original on validation samples")
    with original.source.reference(threads=original.threads) as reference:
        references = record_references(validation, reference, work / "validation", advance=progress.advance)
    progress.done()
    files = sorted(staging.glob(f"{MODEL_FILE}*"))
    facts = {
        "source": original.sha256,
        "graph": [sha256_of(file) for file in files],
        "samples": hash_of_samples(original.calibration),
        "ranges": recipe.ranges,
        "padding_mask": recipe.padding_mask,
        "threads": original.threads,
        "environment": describe_environment(),
        "code": hash_of_own_code(),
    }
    return Ground(
        replace(graphs, ranges=ranges),
        references,
        chosen_samples(feeds for feeds, _ in references),
        timing_feeds(feeds for feeds, _ in references),
        facts,
        ranges.samples,
    )
