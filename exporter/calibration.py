"""Activation ranges for int8: calibrated, or read from a cache file when nothing that they depend on has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.report.progress import Progress
from exporter.sample_hash import hash_of_samples

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.samples import Samples
    from passes.quantize.range_methods import RangeMethod
    from passes.quantize.ranges import Ranges

_CHUNK_BYTES = 1 << 22


def calibrated_ranges(
    model: ir.Model,
    samples: Samples,
    *,
    file: Path,
    method: RangeMethod,
    threads: int,
    cache: Path | None,
    progress: Progress,
) -> Ranges:
    """Return the ranges of `model`, which lies in `file`, over the samples.

    `cache` is read when it was made from the same graph, weights, samples and method, and written otherwise. Raises
    UsageError for a cache that is another kind of file or cannot be written.
    """
    from passes.quantize.calibrate import calibrate
    from passes.quantize.range_file import load_ranges, save_ranges

    made_from: dict[str, str] = {}
    if cache is not None:
        made_from = {"graph": _hash_of_model(file), "samples": hash_of_samples(samples), "method": method}
        known = load_ranges(cache, made_from=made_from)
        if known is not None:
            return known
    ranges = calibrate(model, samples, method=method, threads=threads, progress=lambda _: progress.advance())
    if cache is not None:
        save_ranges(ranges, cache, made_from=made_from)
    return ranges


def _hash_of_model(file: Path) -> str:
    digest = hashlib.sha256()
    for part in (file, file.with_name(f"{file.name}.data")):
        if part.exists():
            with part.open("rb") as stream:
                while piece := stream.read(_CHUNK_BYTES):
                    digest.update(piece)
    return digest.hexdigest()
