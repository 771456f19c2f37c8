"""The identity of samples, for what is kept from one run to the next."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from targets.feeds import plain_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.sources.base import Feeds


def hash_of_samples(samples: Iterable[Feeds]) -> str:
    """Return the SHA-256 of all samples: names, types, shapes and values."""
    digest = hashlib.sha256()
    for feeds in samples:
        for name, value in sorted(feeds.items()):
            array = plain_text(value)  # an array of Python strings has nothing but their addresses in its bytes
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
