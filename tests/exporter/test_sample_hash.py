"""Samples are told apart by what they hold, texts too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exporter.sample_hash import hash_of_samples

if TYPE_CHECKING:
    from targets.base import Array


def texts(number: int) -> Array:
    """Return new Python strings, which may lie where others lay before."""
    array = np.empty(3, dtype=object)
    array[:] = [f"sentence {index} of {number}" for index in range(3)]
    return array


def test_other_texts_at_the_same_addresses_hash_differently() -> None:
    found = {hash_of_samples([{"text": texts(number)}]) for number in range(10, 60)}
    assert len(found) == 50


def test_the_same_texts_hash_alike() -> None:
    assert hash_of_samples([{"text": texts(1)}]) == hash_of_samples([{"text": texts(1)}])
    assert hash_of_samples([{"text": texts(1)}]) == hash_of_samples([{"text": texts(1).astype(np.str_)}])
