"""Whether a quantized artifact pays: its speed against the fastest float artifact of the same target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exporter.evaluation.speed import judge_speed
from exporter.evaluation.tolerance import FLOATS, OVER_FLOAT, GateSpec
from exporter.results import ArtifactReport, Gate, SpeedComparison


def against_fastest_float(
    artifact: ArtifactReport, siblings: Iterable[ArtifactReport]
) -> tuple[tuple[ArtifactReport, SpeedComparison], ...]:
    """Return, for each input shape that was timed, the fastest float artifact of the target and the comparison with it.

    Nothing for a float artifact, and where no float one was timed beside this.
    """
    if artifact.precision in FLOATS:
        return ()
    floats = {
        f"{each.target} {each.label}": each
        for each in siblings
        if each.target == artifact.target and each.precision in FLOATS
    }
    fastest: dict[str, SpeedComparison] = {}
    for speed in artifact.speed:
        if speed.baseline.label in floats:
            known = fastest.setdefault(speed.input_shapes, speed)
            if speed.ratio < known.ratio:
                fastest[speed.input_shapes] = speed
    return tuple((floats[speed.baseline.label], speed) for speed in fastest.values())


def is_not_faster(comparisons: Sequence[SpeedComparison]) -> bool:
    """Return whether it is slower at some shape, or faster at none, beyond noise; False where nothing can be said."""
    told = [each.conclusion for each in comparisons if not each.is_disturbed]
    return "slower" in told or bool(told and "faster" not in told)


def judge_over_float(
    gates: Sequence[GateSpec], artifact: ArtifactReport, siblings: Iterable[ArtifactReport], *, reason: str = ""
) -> tuple[Gate, ...]:
    """Return the `speedup_over_float` gates judged at the input shape where the artifact does worst."""
    compared = [speed for _, speed in against_fastest_float(artifact, siblings)]
    worst = min(compared, key=lambda speed: speed.ratio_low, default=None)
    why = reason or f"no float artifact of {artifact.target} was timed beside it"
    return judge_speed(gates, worst, name=OVER_FLOAT, reason=why)
