"""Further held-out samples at untraced batch sizes: the user's own, split and put together, never invented."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from exporter.sources.base import Feeds
    from targets.base import Array, DimRange, TensorSpec

MOST_ITEMS = 64
"""How many items (samples of batch size 1) are drawn on."""

MOST_SHAPES = 3
"""How many different lengths are varied: the shortest, the longest and the most frequent."""

SMALLEST_CAP = 4
"""Batches up to this size are made even of samples that all have batch 1."""

_BATCH_NAMES = ("batch", "batch_size", "n", "b")


def batch_dimension(inputs: Sequence[TensorSpec]) -> str | None:
    """Return the symbol of the batch dimension: the named first dimension that most inputs have, or None."""
    counts = Counter(spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str))
    if not counts:
        return None
    greatest = max(counts.values())
    leading = [symbol for symbol, count in counts.items() if count == greatest]
    return next((symbol for symbol in leading if str(symbol).lower() in _BATCH_NAMES), leading[0])


def vary_batches(
    samples: Iterable[Feeds],
    inputs: Sequence[TensorSpec],
    *,
    dims: Mapping[str, DimRange] | None = None,
    traced: Collection[int] = (),
) -> tuple[dict[str, Array], ...]:
    """Return samples of other batch sizes than `traced` and the samples' own, by splitting and concatenating those.

    Batch 1, one odd size and the greatest size possible (at most twice the samples' own) are made at up to three
    lengths, inside the range that `dims` gives the batch dimension. Lengths are only those that the samples have:
    padding cannot be invented. Empty when no dimension is a batch, or nothing new can be made.
    """
    symbol = batch_dimension(inputs)
    if symbol is None:
        return ()
    axes = {spec.name: spec.shape.index(symbol) for spec in inputs if symbol in spec.shape}
    items: list[dict[str, Array]] = []
    sizes_seen: set[int] = set()
    for feeds in samples:
        size = _batch_size(feeds, axes)
        if size is None:
            continue
        sizes_seen.add(size)
        items.extend(_items(feeds, axes, size)[: MOST_ITEMS - len(items)])
        if len(items) >= MOST_ITEMS:
            break
    limits = (dims or {}).get(symbol)
    greatest = max(SMALLEST_CAP, 2 * max(sizes_seen, default=0))
    known = sizes_seen | set(traced)
    varied: list[dict[str, Array]] = []
    for group in _groups(items, axes):
        for size in _new_sizes(min(len(group), greatest), known):
            if limits is None or limits.minimum <= size <= limits.maximum:
                varied.append(_joined(group[:size], axes))
    return tuple(varied)


def _batch_size(feeds: Feeds, axes: Mapping[str, int]) -> int | None:
    sizes = {feeds[name].shape[axis] for name, axis in axes.items() if name in feeds and feeds[name].ndim > axis}
    return sizes.pop() if len(sizes) == 1 else None


def _items(feeds: Feeds, axes: Mapping[str, int], size: int) -> list[dict[str, Array]]:
    return [
        {
            name: np.take(value, [index], axis=axes[name]) if name in axes else np.asarray(value)
            for name, value in feeds.items()
        }
        for index in range(size)
    ]


def _groups(items: Sequence[dict[str, Array]], axes: Mapping[str, int]) -> list[list[dict[str, Array]]]:
    """Return the items that can be put together: equal shapes, types and contents of inputs without a batch."""
    found: dict[str, list[dict[str, Array]]] = {}
    for item in items:
        digest = hashlib.sha256()
        for name in sorted(item):
            digest.update(f"{name} {item[name].dtype} {item[name].shape} ".encode())
            if name not in axes:
                digest.update(item[name].tobytes())
        found.setdefault(digest.hexdigest(), []).append(item)
    groups = sorted(found.values(), key=lambda group: sum(value.size for value in group[0].values()))
    if len(groups) <= MOST_SHAPES:
        return groups
    frequent = max(groups[1:-1], key=len)
    return [groups[0], frequent, groups[-1]]


def _new_sizes(available: int, known: Collection[int]) -> list[int]:
    """Return up to three sizes that are not known: 1, the least odd one above it, and the greatest."""
    odd = next((size for size in range(3, available + 1, 2) if size not in known), None)
    wanted = [1, odd, next((size for size in range(available, 1, -1) if size not in known), None)]
    return sorted({size for size in wanted if size is not None and size not in known and size <= available})


def _joined(group: Sequence[dict[str, Array]], axes: Mapping[str, int]) -> dict[str, Array]:
    return {
        name: np.concatenate([item[name] for item in group], axis=axes[name]) if name in axes else value
        for name, value in group[0].items()
    }
