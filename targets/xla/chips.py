"""The TPU chips that can be compiled for, and what a topology's name means."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from passes.errors import UsageError

_TOPOLOGY = re.compile(r"(?P<chip>[a-z0-9]+):(?P<grid>\d+(x\d+){1,2})")


@dataclass(frozen=True, slots=True)
class Chip:
    """One TPU generation. hbm_bytes: per chip, as published (docs.cloud.google.com/tpu/docs, read November 2026).

    accelerator: the prefix of TPU_ACCELERATOR_TYPE, which keeps the compiler from asking a metadata server.
    """

    name: str
    hbm_bytes: int
    accelerator: str
    grid_rank: int


_GIB = 1 << 30
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v2", 16 * _GIB, "v2", 2),
        Chip("v3", 32 * _GIB, "v3", 2),
        Chip("v4", 32 * _GIB, "v4", 3),
        Chip("v5e", 16 * _GIB, "v5litepod", 2),
        Chip("v5p", 95 * _GIB, "v5p", 3),
        Chip("v6e", 32 * _GIB, "v6e", 2),
        Chip("tpu7x", 192 * _GIB, "tpu7x", 3),
    )
}
HBM_SOURCE = "docs.cloud.google.com/tpu/docs, per chip, November 2026"


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology such as "v5e:2x2". Raises UsageError with the form and the chips that are known."""
    match = _TOPOLOGY.fullmatch(topology)
    if match is None or match["chip"] not in CHIPS:
        raise UsageError(
            f"There is no TPU topology '{topology}'.",
            hint=f"Write chip:grid, such as v5e:2x2 or v4:2x2x1. Chips: {', '.join(CHIPS)}.",
        )
    chip = CHIPS[match["chip"]]
    if match["grid"].count("x") != chip.grid_rank - 1:
        form = "x".join("2" * chip.grid_rank)
        raise UsageError(
            f"The grid of {chip.name} has {chip.grid_rank} dimensions.", hint=f"Such as {chip.name}:{form}."
        )
    return chip


def chip_count(topology: str) -> int:
    """Return the number of chips of a topology's grid."""
    return math.prod(int(size) for size in topology.partition(":")[2].split("x"))
