"""Which dimensions of a torch module's inputs are dynamic, their names, and the sizes to trace and probe at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.sources.torch_arrays import dtype_name
from passes.errors import UsageError
from targets.base import Dim, TensorSpec

if TYPE_CHECKING:
    import torch

    from exporter.sources.base import Feeds
    from exporter.sources.torch_builder import Dynamic, Sample

BATCH = "batch"
SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class Dims:
    """The dynamic dimensions and the sample that shows them.

    guessed: dimensions that neither the user declared nor the samples vary; dropped when the module doesn't allow them.
    sizes: the size that each dynamic dimension is traced at. At least 2, since exporters treat 0 and 1 as constants,
    and different ones where possible, so that a constant in the graph tells which dimension it came from.
    """

    sample: Sample
    dynamic: Dynamic
    guessed: frozenset[str]
    sizes: Mapping[str, int]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, dtype_name(tensor), self.shape(name)) for name, tensor in self.sample.tensors.items()
        )

    def shape(self, name: str) -> tuple[Dim, ...]:
        """Return the input's shape, dynamic dimensions by name."""
        axes = self.dynamic.get(name, {})
        return tuple(axes.get(axis, size) for axis, size in enumerate(self.sample.tensors[name].shape))

    def tensors_at(self, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Return the sample's tensors at other sizes, cut off or repeated from the start: values stay legal."""
        import torch

        resized: dict[str, torch.Tensor] = {}
        for name, tensor in self.sample.tensors.items():
            for axis, dim in self.dynamic.get(name, {}).items():
                wanted, present = sizes.get(dim, tensor.shape[axis]), tensor.shape[axis]
                if wanted != present:
                    tensor = tensor.index_select(axis, torch.arange(wanted, device=tensor.device) % present)
            resized[name] = tensor.contiguous()
        return resized

    def probe_sizes(self) -> tuple[dict[str, int], ...]:
        """Return other sizes to try a traced graph at, the likeliest first; a module may refuse some of them."""
        if not self.sizes:
            return ()
        larger = {dim: size + 1 for dim, size in self.sizes.items()}
        doubled = {dim: 2 * size for dim, size in self.sizes.items()}
        single = {dim: 1 if dim in self._first_axis() else size for dim, size in doubled.items()}
        return larger, doubled, single

    def without_guesses(self) -> Dims:
        """Return these dimensions with the guessed ones fixed at the sample's sizes."""
        kept = {
            name: {axis: dim for axis, dim in axes.items() if dim not in self.guessed}
            for name, axes in self.dynamic.items()
        }
        return replace(
            self,
            dynamic={name: axes for name, axes in kept.items() if axes},
            guessed=frozenset(),
            sizes={dim: size for dim, size in self.sizes.items() if dim not in self.guessed},
        )

    def _first_axis(self) -> frozenset[str]:
        return frozenset(axes[0] for axes in self.dynamic.values() if 0 in axes)


def dims_of(sample: Sample, declared: Dynamic | None, samples: Iterable[Feeds]) -> Dims:
    """Return the dynamic dimensions: the declared ones, or else those in which samples differ, and a batch.

    Axes that have equal sizes in every sample share a name. Raises UsageError when a declared dimension has two sizes.
    """
    guessed: frozenset[str] = frozenset()
    if declared is None:
        declared, guessed = _observed(sample, samples)
    sizes: dict[str, int] = {}
    for name, axes in declared.items():
        for axis, dim in axes.items():
            size = int(sample.tensors[name].shape[axis])
            if sizes.setdefault(dim, size) != size:
                raise UsageError(
                    f"The dimension '{dim}' is {sizes[dim]} in one sample input and {size} in '{name}', axis {axis}.",
                    hint="Give different dimensions different names.",
                )
    first = {axes[0] for axes in declared.values() if 0 in axes}
    return Dims(sample, declared, guessed, _distinct(sizes, flexible=first))


def _distinct(sizes: Mapping[str, int], *, flexible: set[str]) -> dict[str, int]:
    """Return sizes from 2 on, different where only batches have to change for it."""
    chosen: dict[str, int] = {}
    for dim in sorted(sizes, key=lambda dim: dim in flexible):
        size = max(sizes[dim], 2)
        while dim in flexible and size in chosen.values():
            size += 1
        chosen[dim] = size
    return {dim: chosen[dim] for dim in sizes}


def _observed(sample: Sample, samples: Iterable[Feeds]) -> tuple[Dynamic, frozenset[str]]:
    sizes: dict[tuple[str, int], list[int]] = {
        (name, axis): [int(size)] for name, tensor in sample.tensors.items() for axis, size in enumerate(tensor.shape)
    }
    for feeds in samples:
        for name, tensor in sample.tensors.items():
            if name in feeds and feeds[name].ndim == tensor.ndim:
                for axis, size in enumerate(feeds[name].shape):
                    sizes[name, axis].append(int(size))
    groups: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for place, seen in sizes.items():
        if len(set(seen)) > 1:
            groups.setdefault(tuple(seen), []).append(place)
    dynamic: dict[str, dict[int, str]] = {}
    taken: set[str] = set()
    for places in groups.values():
        dim = _group_name(places, taken)
        taken.add(dim)
        for name, axis in places:
            dynamic.setdefault(name, {})[axis] = dim
    firsts = {tuple(sizes.get((name, 0), ())) for name in sample.tensors}
    if BATCH not in taken and len(firsts) == 1 and firsts != {()}:
        for name in sample.tensors:
            dynamic.setdefault(name, {})[0] = BATCH
        return dynamic, frozenset({BATCH})
    return dynamic, frozenset()


def _group_name(places: list[tuple[str, int]], taken: set[str]) -> str:
    name, axis = places[0]
    for wanted, at in ((BATCH, 0), (SEQUENCE, 1)):
        if axis == at and wanted not in taken:
            return wanted
    return f"{name}_{axis}"
