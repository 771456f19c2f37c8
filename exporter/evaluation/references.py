"""The original's outputs on held-out samples: computed once, kept on disk, read back one sample at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.evaluation.accuracy import shapes_of
from exporter.evaluation.difference import Difference, is_exact
from passes.errors import GraphwrightError, UsageError

if TYPE_CHECKING:
    from exporter.sources.base import Feeds
    from targets.base import Array, TensorSpec


_REPEATABLE_DB = 100.0
"""Two runs nearer than this differ by rounding (threads may sum in another order)."""


class ReferenceFailed(UsageError):
    """The original itself raised on a held-out sample."""


class ReferenceChanged(GraphwrightError):
    """A file of reference outputs was changed or removed while it was needed."""


@dataclass(frozen=True, slots=True)
class ReferenceOutputs:
    """Held-out samples with the original's outputs. Iterating yields (feeds, outputs) and may be repeated.

    files: one a sample, each with the SHA-256 that it was written with. Memory holds one sample at a time.
    further: how many of them are not the user's own but made of those.
    notes: what a reader of the comparisons must know: an original that is not repeatable, further samples left out.
    """

    files: tuple[tuple[Path, str], ...]
    size_bytes: int
    further: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        for path, expected in self.files:
            yield _read(path, expected)

    def of_fixed_sizes(self, inputs: Sequence[TensorSpec]) -> ReferenceOutputs:
        """Return these without our own further samples of sizes that `inputs` fix otherwise; the user's all stay."""
        own = len(self.files) - self.further
        kept = [file for file in self.files[own:] if _has_fixed_sizes(_read(*file)[0], inputs)]
        return replace(self, files=(*self.files[:own], *kept), further=len(kept))


def _has_fixed_sizes(feeds: Feeds, inputs: Sequence[TensorSpec]) -> bool:
    return all(
        not isinstance(wanted, int) or wanted == size
        for spec in inputs
        if spec.name in feeds
        for wanted, size in zip(spec.shape, feeds[spec.name].shape, strict=False)
    )


def record_references(
    samples: Iterable[Feeds],
    original: Callable[[Feeds], Mapping[str, Array]],
    folder: Path,
    *,
    further: Iterable[Feeds] = (),
    advance: Callable[[], None] = lambda: None,
) -> ReferenceOutputs:
    """Run `original` on each sample and return the outputs, kept in `folder` (made if need be; one use a folder).

    Raises ReferenceFailed when the original raises, naming the sample. `further` samples are ours, not the user's: one
    that the original does not take is left out and noted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[tuple[Path, str]] = []
    notes: list[str] = []
    for index, feeds in enumerate(samples):
        try:
            outputs = original(feeds)
        except GraphwrightError:
            raise
        except Exception as error:
            raise ReferenceFailed(
                f"The original fails on sample {index} ({shapes_of(feeds)}): {type(error).__name__}: {error}",
                hint="The samples must be inputs that the original takes.",
            ) from error
        files.append(_write(folder / f"{index:05d}.sample", {"feeds": dict(feeds), "outputs": dict(outputs)}))
        if index == 0:
            notes += _repeatability(feeds, _read(*files[0])[1], original)
        advance()
    own = len(files)
    for feeds in further:
        try:
            outputs = original(feeds)
        except Exception as error:
            notes.append(
                f"Not verified at {shapes_of(feeds)}: the original fails there: {type(error).__name__}: {error}"
            )
            continue
        files.append(_write(folder / f"{len(files):05d}.sample", {"feeds": dict(feeds), "outputs": dict(outputs)}))
        advance()
    size_bytes = sum(path.stat().st_size for path, _ in files)
    return ReferenceOutputs(tuple(files), size_bytes, further=len(files) - own, notes=tuple(notes))


def _repeatability(
    feeds: Feeds, first: Mapping[str, Array], original: Callable[[Feeds], Mapping[str, Array]]
) -> list[str]:
    """Return a note when the original's second run on the same input is farther from its first than by rounding."""
    second = original(feeds)
    notes = []
    for name, reference in first.items():
        again = np.asarray(second[name]) if name in second else None
        if again is None or again.shape != reference.shape or again.dtype != reference.dtype:
            notes.append(f"The original is not repeatable: output '{name}' changes its form for the same input.")
            continue
        difference = Difference(name, exact=is_exact(reference.dtype))
        difference.add(reference, again, sample="")
        result = difference.result()
        if result.sqnr_db < _REPEATABLE_DB:
            notes.append(
                f"The original is not repeatable: output '{name}' of two runs on the same input agrees to "
                f"{result.sqnr_db:.1f} dB only. Is it in training mode (dropout), or random by design?"
            )
    return notes


def _write(path: Path, groups: Mapping[str, Mapping[str, Array]]) -> tuple[Path, str]:
    """Write a line of JSON that lists the arrays, then their bytes; numpy's own format lacks bfloat16."""
    header = []
    pieces = []
    for group, arrays in groups.items():
        for name, value in arrays.items():
            array = np.ascontiguousarray(value).reshape(np.shape(value))
            if array.dtype.hasobject:
                raise UsageError(f"The array '{name}' holds Python objects, not numbers.")
            header.append([group, name, array.dtype.name if array.dtype.kind == "V" else array.dtype.str, array.shape])
            pieces.append(array.tobytes())
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for piece in [json.dumps(header).encode() + b"\n", *pieces]:
            stream.write(piece)
            digest.update(piece)
    return path, digest.hexdigest()


def _read(path: Path, expected: str) -> tuple[dict[str, Array], dict[str, Array]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReferenceChanged(f"The reference outputs {path} cannot be read: {error}", hint="Run it again.") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ReferenceChanged(f"The reference outputs {path} were changed while in use.", hint="Run it again.")
    line, _, _ = content.partition(b"\n")
    groups: dict[str, dict[str, Array]] = {"feeds": {}, "outputs": {}}
    offset = len(line) + 1
    for group, name, dtype_name, shape in json.loads(line):
        dtype = _dtype_from_name(dtype_name)
        count = int(np.prod(shape, dtype=np.int64))
        # A copy: runtimes want memory that is aligned and may be written to.
        groups[group][name] = np.frombuffer(content, dtype, count=count, offset=offset).reshape(shape).copy()
        offset += count * dtype.itemsize
    return groups["feeds"], groups["outputs"]


def _dtype_from_name(name: str) -> np.dtype[np.generic]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return dtype
