"""How much of the processors other processes took while something was measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

MOST_SHARE = 0.10
"""Above this share of our processors' time taken by others, a timing proves nothing about the artifact."""

_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class ProcessorTimes:
    """Seconds so far: the wall, this process's own, and all work of the processors that it may use."""

    wall_s: float
    own_s: float
    busy_s: float | None


def processor_times() -> ProcessorTimes:
    """Return the times now; `busy_s` is None where the system does not tell."""
    return ProcessorTimes(time.monotonic(), time.process_time(), _busy_seconds())


def share_of_others(before: ProcessorTimes, after: ProcessorTimes) -> float | None:
    """Return the share, 0 to 1, of our processors' time that others (or a hypervisor) took; None if unknown."""
    elapsed = (after.wall_s - before.wall_s) * len(os.sched_getaffinity(0))
    if before.busy_s is None or after.busy_s is None or elapsed <= 0:
        return None
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(max(others / elapsed, 0.0), 1.0)


def _busy_seconds() -> float | None:
    """Return the seconds that our processors were not idle; /proc/stat counts in clock ticks (proc(5))."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
        rows = [[int(field) for field in fields[1:9]] for fields in lines if fields and fields[0] in ours]
    except (OSError, ValueError):
        return None
    if len(rows) != len(ours):
        return None
    idle_and_waiting = sum(row[3] + row[4] for row in rows)
    return (sum(map(sum, rows)) - idle_and_waiting) / os.sysconf("SC_CLK_TCK")
