"""The original's outputs on held-out samples: computed once, kept on disk, read back one sample at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.verify.accuracy import shapes_of
from passes.errors import GraphwrightError, UsageError

if TYPE_CHECKING:
    from exporter.sources.base import Feeds
    from targets.base import Array


class ReferenceFailed(UsageError):
    """The original itself raised on a held-out sample."""


class ReferenceChanged(GraphwrightError):
    """A file of reference outputs was changed or removed while it was needed."""


@dataclass(frozen=True, slots=True)
class ReferenceOutputs:
    """Held-out samples with the original's outputs. Iterating yields (feeds, outputs) and may be repeated.

    files: one a sample, each with the SHA-256 that it was written with. Memory holds one sample at a time.
    """

    files: tuple[tuple[Path, str], ...]
    size_bytes: int

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        for path, expected in self.files:
            yield _read(path, expected)


def record_references(
    samples: Iterable[Feeds],
    original: Callable[[Feeds], Mapping[str, Array]],
    folder: Path,
    *,
    advance: Callable[[], None] = lambda: None,
) -> ReferenceOutputs:
    """Run `original` on each sample and return the outputs, kept in `folder` (made, or reused when empty of samples).

    Raises ReferenceFailed when the original raises, naming the sample.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[tuple[Path, str]] = []
    size_bytes = 0
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
        path = folder / f"{index:05d}.sample"
        digest, written = _write(path, {"feeds": dict(feeds), "outputs": dict(outputs)})
        files.append((path, digest))
        size_bytes += written
        advance()
    return ReferenceOutputs(tuple(files), size_bytes)


def _write(path: Path, groups: Mapping[str, Mapping[str, Array]]) -> tuple[str, int]:
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
    written = 0
    with path.open("wb") as stream:
        for piece in [json.dumps(header).encode() + b"\n", *pieces]:
            stream.write(piece)
            digest.update(piece)
            written += len(piece)
    return digest.hexdigest(), written


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
        groups[group][name] = np.frombuffer(content, dtype, count=count, offset=offset).reshape(shape)
        offset += count * dtype.itemsize
    return groups["feeds"], groups["outputs"]


def _dtype_from_name(name: str) -> np.dtype[np.generic]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return dtype
