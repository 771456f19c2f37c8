"""Sample inputs: an .npz, a folder of them, or a function that yields them; streamed, checked, and never invented."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from exporter.sample_fit import fitted
from exporter.user_code import is_function_location, load_function, user_code
from passes.errors import UsageError
from targets.base import DimRange, TensorSpec

if TYPE_CHECKING:
    from exporter.sources.base import Feeds
    from targets.base import Array

FORMS = """\
Samples are one of:
  inputs.npz            one batch; each array is named as an input, batch dimension included
  folder/               .npz files like that one, read in the order of their names
  file.py:function      a function without arguments that yields dicts, input name -> array
  package.module:function"""


@dataclass(frozen=True, slots=True)
class Samples:
    """Sample inputs. Iterating yields one sample at a time, each iteration anew, so memory holds only one.

    inputs: what each sample is checked against and cast to; None yields the arrays as they are.
    held: the samples themselves, where they are in memory already and are not read from `location`.
    """

    location: str
    inputs: tuple[TensorSpec, ...] | None = None
    held: tuple[Feeds, ...] = ()

    def __len__(self) -> int:
        """Return how many samples there are; a function is run once to count its own."""
        if is_function_location(self.location) and not self.held:
            return sum(1 for _ in _read(self))
        return len(self.held) or len(_files(Path(self.location).expanduser()))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        empty = True
        for label, sample in _read(self):
            empty = False
            yield sample if self.inputs is None else fitted(sample, self.inputs, label=label)
        if empty:
            raise UsageError(f"{self.location} holds no samples.", hint=FORMS)

    def fitting(self, inputs: Sequence[TensorSpec]) -> Samples:
        """Return the same samples, checked against `inputs` while they are read."""
        return replace(self, inputs=tuple(inputs))


def load_samples(location: str, inputs: Sequence[TensorSpec] | None = None) -> Samples:
    """Return the samples at `location`. Only the place is looked at now; contents are checked as they are read.

    Raises UsageError, now or while iterating: nothing there, no samples, an input missing, unknown, of the wrong rank,
    type or size, or with NaN or infinite values; it names the sample, the input, what was expected and what came.
    """
    if is_function_location(location):
        load_function(location)
    else:
        _files(Path(location).expanduser())
    return Samples(location, None if inputs is None else tuple(inputs))


def samples_from_example(example: Feeds, *, location: str = "the source's own example") -> Samples:
    """Return the one sample that came with a source, as Samples."""
    return Samples(location, held=(example,))


def generated_feeds(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return seeded random inputs of the given sizes, for timing alone: never for calibration or accuracy.

    Floats are standard normal, booleans and integers are all ones: a mask of ones hides nothing, and the identifier 1
    is in range everywhere. A text is "text". Raises UsageError for a dimension that `sizes` lacks.
    """
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        lacking = [dim for dim in spec.shape if not isinstance(dim, int) and dim not in sizes]
        if lacking:
            raise UsageError(f"The size of '{lacking[0]}' in input {spec} is not known.", hint="Give --samples.")
        shape = tuple(dim if isinstance(dim, int) else sizes[str(dim)] for dim in spec.shape)
        if spec.dtype == "string":
            feeds[spec.name] = np.full(shape, "text")
            continue
        is_whole = spec.dtype.startswith(("int", "uint", "bool"))
        values = np.ones(shape) if is_whole else random.standard_normal(shape, dtype=np.float32)
        feeds[spec.name] = values.astype(_dtype(spec.dtype))
    return feeds


def dims_from_samples(inputs: Sequence[TensorSpec], samples: Iterable[Feeds]) -> dict[str, DimRange]:
    """Return what each named dimension of the inputs ranges over; `usual` is the most frequent size.

    Of equally frequent sizes the greatest is taken: a builder that tunes for it serves the costlier case.
    """
    seen: dict[str, dict[int, int]] = {}
    for sample in samples:
        sizes: dict[str, int] = {}
        for spec in inputs:
            for dim, size in zip(spec.shape, sample[spec.name].shape, strict=True):
                if isinstance(dim, str):
                    sizes[dim] = size
        for dim, size in sizes.items():
            counts = seen.setdefault(dim, {})
            counts[size] = counts.get(size, 0) + 1
    return {
        dim: DimRange(min(counts), max(counts, key=lambda size: (counts[size], size)), max(counts))
        for dim, counts in seen.items()
    }


def missing_calibration_error() -> UsageError:
    """Return the error for int8 or fp8 without calibration data; random data is never taken in its place."""
    return UsageError(
        "int8 and fp8 need calibration data, and none was given.",
        hint=f"Give some with --calibration: 50 to 500 real inputs, other ones than --samples.\n{FORMS}",
    )


def _read(samples: Samples) -> Iterator[tuple[str, dict[str, Array]]]:
    if samples.held:
        for index, sample in enumerate(samples.held):
            yield f"Sample {index} of {samples.location}", dict(sample)
    elif is_function_location(samples.location):
        yield from _from_function(samples.location)
    else:
        for file in _files(Path(samples.location).expanduser()):
            yield f"Sample {file}", _from_file(file)


def _from_function(location: str) -> Iterator[tuple[str, dict[str, Array]]]:
    function = load_function(location)
    produced = function()
    if isinstance(produced, Mapping):
        produced = [produced]
    if not isinstance(produced, Iterable):
        raise UsageError(f"{location} returned a {type(produced).__name__}.", hint="Yield dicts: input name -> array.")
    iterator = iter(produced)
    index = 0
    while True:
        with user_code(location, function.file):
            sample = next(iterator, None)
        if sample is None:
            return
        if not isinstance(sample, Mapping):
            raise UsageError(
                f"{location} yielded a {type(sample).__name__} as sample {index}.",
                hint="Yield dicts: input name -> array.",
            )
        yield f"Sample {index} of {location}", {str(name): _array(value) for name, value in sample.items()}
        index += 1


def _dtype(name: str) -> np.dtype[np.generic]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return dtype


def _array(value: Any) -> Array:
    """Return a numpy array of the user's array, list or torch tensor."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return cast("Array", np.asarray(value))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise UsageError(f"The folder {path} holds no .npz files.", hint=FORMS)
        return files
    if not path.exists():
        raise UsageError(f"There are no samples at {path}.", hint=FORMS)
    if path.suffix != ".npz":
        raise UsageError(f"{path} is not a form of samples that is known.", hint=FORMS)
    return [path]


def _from_file(file: Path) -> dict[str, Array]:
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UsageError(
                f"The sample file {file} holds one bare array, without an input's name.",
                hint="Write it with numpy.savez, each array named as an input; numpy.save writes .npy files.",
            )
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"The sample file {file} cannot be read: {error}",
            hint="Write it again with numpy.savez; arrays of Python objects are not read, since pickles can run code.",
        ) from error
