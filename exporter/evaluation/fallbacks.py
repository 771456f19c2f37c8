"""Planned int8 operators that a runtime computed in float, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MOST_NAMES = 5


def fallback_texts(executed: Mapping[str, Any]) -> tuple[str, ...]:
    """Return why planned int8 operators ran in float, those of one reason together."""
    planned = executed.get("int8_planned", 0)
    by_reason: dict[str, list[str]] = {}
    for each in executed.get("fallbacks", ()):
        by_reason.setdefault(each["reason"], []).append(each["node"])
    return tuple(
        f"{len(nodes)} of {planned} planned int8 operators ran in float ({_named(nodes)}): {reason}"
        for reason, nodes in by_reason.items()
    )


def _named(nodes: Iterable[str]) -> str:
    listed = list(nodes)
    more = f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else ""
    return ", ".join(listed[:MOST_NAMES]) + more
