"""Figures and names in the words that every report uses."""

from __future__ import annotations

import math

UNKNOWN = "–"

_LARGEST_SHOWN_DB = 300.0


def printable(text: str) -> str:
    """Return `text` with control characters spelled out, so that a name can't steer a terminal or break a file."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def decibel_text(value: float | None) -> str:
    """Return "84.2 dB", "exact" for inf, a dash for what was not measured."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if value > _LARGEST_SHOWN_DB:
        return "exact"
    return "-∞ dB" if value == -math.inf else f"{math.floor(value * 10) / 10:.1f} dB"


def cosine_text(value: float | None) -> str:
    """Return a similarity with as many nines as it has: "0.9964", "1 - 3e-09"."""
    if value is None or math.isnan(value):
        return UNKNOWN
    gap = 1.0 - value
    if gap <= 0:
        return "1"
    return f"1 - {gap:.0e}" if gap < 1e-4 else f"{math.floor(value * 1e4) / 1e4:.4f}"


def share_text(value: float | None) -> str:
    """Return "98.4%" for 0.984; 100% only when nothing is missing."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{math.floor(value * 1000) / 10:g}%"


def ratio_text(value: float) -> str:
    """Return "1.83x"."""
    return f"{value:.2f}x" if math.isfinite(value) else ("∞" if value > 0 else UNKNOWN)


def milliseconds_text(value: float) -> str:
    """Return a time in ms, us or s with three digits."""
    if not math.isfinite(value):
        return UNKNOWN
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.3g} ms" if value >= 0.1 else f"{value * 1000:.3g} µs"


def seconds_text(value: float) -> str:
    """Return "40 ms", "0.4 s", "12 s" or "3 min 20 s"."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def bytes_text(value: int) -> str:
    """Return a size in decimal units: "86.7 MB"."""
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def number_text(value: float | None) -> str:
    """Return a threshold or reading with up to six digits."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.6g}"
