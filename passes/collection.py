"""Work without Python's cyclic garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Pause the collector: nodes and values refer to each other, so each of its rounds walks the whole graph in vain.

    Measured, it is a quarter of the time of a pipeline on a graph of 7,600 nodes, for a few megabytes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
