"""What this machine's processor is, as far as it changes an artifact's results or speed."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

# Instruction sets that decide which low-precision kernels a runtime takes; /proc/cpuinfo's spelling.
_RELEVANT_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimddp",
    "i8mm",
    "bf16",
)
_VNNI = frozenset({"avx_vnni", "avx512_vnni"})
_ARM_INT8 = frozenset({"asimddp", "i8mm"})
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})


@lru_cache(maxsize=1)
def processor_name() -> str:
    """Return the CPU's model as the operating system names it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def processor_flags() -> tuple[str, ...]:
    """Return the instruction sets this CPU has that matter for low precision; empty where the system doesn't say."""
    cpuinfo = _cpuinfo()
    present = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return tuple(flag for flag in _RELEVANT_FLAGS if flag in present)


def has_saturating_int8_products() -> bool:
    """Return whether sums of two uint8 x int8 products are cut off at 16 bits: x86 without VNNI (vpmaddubsw).

    Weights of 7 bits cannot reach the limit: 2 * 255 * 63 < 2**15. True for an x86 whose instruction sets are unknown.
    """
    return platform.machine().lower() in _X86 and not _VNNI & set(processor_flags())


def low_precision_note() -> str:
    """Return what this CPU's instruction sets mean for int8 against float, in words."""
    flags = set(processor_flags())
    parts = []
    if platform.machine().lower() in _X86:
        if "amx_int8" in flags:
            parts.append("AMX multiplies int8 in tiles")
        elif flags & _VNNI:
            parts.append("VNNI multiplies int8 at up to 4 times the rate of float32")
        else:
            parts.append("without VNNI an int8 product takes three instructions instead of one")
    elif flags & _ARM_INT8:
        parts.append("int8 products have instructions of their own")
    if flags & _BF16:
        parts.append("it multiplies bf16 at up to twice the rate of float32, so int8 gains less over bf16")
    return f"the CPU ({processor_label()}): {'; '.join(parts)}" if parts else ""


def processor_label() -> str:
    """Return the CPU's name and its relevant instruction sets: "AMD EPYC (avx2 avx512_vnni)"."""
    flags = processor_flags()
    return f"{processor_name()} ({' '.join(flags)})" if flags else processor_name()


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    first = text.strip().split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
