"""What this process has open and in memory of a file, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def resident_kib(file: Path) -> int:
    """Return how much of the file's mappings is in memory."""
    sections = Path("/proc/self/smaps").read_text(encoding="utf-8").split(f" {file}\n")[1:]
    return sum(int(section.split("Rss:")[1].split()[0]) for section in sections)


def descriptors(file: Path) -> int:
    """Return how many descriptors refer to the file, also where it has been replaced since."""
    found = 0
    for number in Path("/proc/self/fd").iterdir():
        try:
            found += str(number.readlink()).removesuffix(" (deleted)") == str(file)
        except OSError:  # the one that lists them is closed by now
            continue
    return found
