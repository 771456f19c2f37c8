"""What a build found out that no gate asks for: a quantized artifact that is not faster than a float one, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exporter.evaluation.accuracy import shapes_of
from exporter.evaluation.fallbacks import fallback_texts
from exporter.evaluation.quantized_speed import against_fastest_float, is_not_faster
from exporter.results import ArtifactReport, Finding, SpeedComparison
from targets.base import ProfilingTarget

if TYPE_CHECKING:
    from exporter.sources.base import Feeds
    from targets.base import Artifact, Profile, Target

SLOWER = "quantized is slower"
DISTURBED = "whether quantized is faster was not judged"

LEAST_SHARE = 0.05
"""Of the time: operators that take less are not named."""

_Group = tuple[ArtifactReport, SpeedComparison]


def slower_quantized(
    reports: Sequence[ArtifactReport],
    artifacts: Mapping[str, tuple[Target, Artifact]],
    feeds: Sequence[Feeds],
    *,
    threads: int,
    stage: Callable[[str], None] = lambda text: None,
) -> tuple[Finding, ...]:
    """Return a finding for each quantized artifact that is not faster than a float one of its target beyond noise.

    `artifacts` are those that can be opened, by title; one that is flagged is profiled on the timed `feeds`. Where
    other processes took so much of the machine that nothing can be concluded, that is the finding.
    """
    findings: list[Finding] = []
    for report in reports:
        groups = against_fastest_float(report, reports)
        speeds = [speed for _, speed in groups]
        title = f"{report.target} {report.label}"
        if speeds and all(speed.is_disturbed for speed in speeds):
            reason = "other processes took too much of the processors while it was timed"
            findings.append(Finding(DISTURBED, title, reason, (), "Time again on an idle machine."))
        elif is_not_faster(speeds):
            stage(f"profile {title}")
            slowest = min(groups, key=lambda group: group[1].ratio)
            profile = _profile(artifacts.get(title), slowest[1], feeds, threads)
            findings.append(_finding(report, groups, slowest, profile))
    return tuple(findings)


def _profile(
    built: tuple[Target, Artifact] | None, speed: SpeedComparison, feeds: Sequence[Feeds], threads: int
) -> Profile | None:
    fitting = next((each for each in feeds if shapes_of(each) == speed.input_shapes), None)
    if built is None or fitting is None or not isinstance(built[0], ProfilingTarget):
        return None
    try:
        return built[0].profile(built[1], fitting, threads=threads)
    except Exception:  # a runtime's own class, perhaps; an explanation that fails is no reason to fail the build
        return None


def _finding(report: ArtifactReport, groups: Sequence[_Group], slowest: _Group, profile: Profile | None) -> Finding:
    rival = slowest[0]
    title, other = f"{report.target} {report.label}", f"{rival.target} {rival.label}"
    measured = "; ".join(_measured(speed) for _, speed in groups)
    reasons = (
        *fallback_texts(report.details.get("executed", {})),
        *_conversion_texts(report.details.get("executed", {}), profile),
        *_float_texts(profile),
        *((profile.arithmetic,) if profile is not None and profile.arithmetic else ()),
    )
    if not reasons:
        reasons = ("the runtime does not tell where the time goes",)
    size = f" {title} has {report.size_bytes / rival.size_bytes:.0%} of its size." if rival.size_bytes else ""
    return Finding(
        SLOWER,
        title,
        f"{title} is not faster than the float artifacts of its target: {measured}",
        reasons,
        f"Use {other}.{size}",
        recommended=other,
    )


def _measured(speed: SpeedComparison) -> str:
    conclusion = "within noise" if speed.conclusion.startswith("no ") else speed.conclusion
    interval = f"[{speed.ratio_low:.2f}, {speed.ratio_high:.2f}]"
    return f"{speed.ratio:.2f}x {interval} of {speed.baseline.label} at {speed.input_shapes} ({conclusion})"


def _conversion_texts(executed: Mapping[str, Any], profile: Profile | None) -> tuple[str, ...]:
    count = executed.get("conversions", 0)
    if not count:
        return ()
    share = sum(each.share for each in profile.operators if each.arithmetic == "conversion") if profile else None
    taken = f", which take {share:.0%} of its time" if share is not None else ""
    return (f"{count} conversions between 8-bit integers and float are left{taken}",)


def _float_texts(profile: Profile | None) -> tuple[str, ...]:
    floats = [each for each in profile.operators if each.arithmetic == "float"] if profile else []
    total = sum(each.share for each in floats)
    shown = ", ".join(f"{each.operator} {each.share:.0%}" for each in floats if each.share >= LEAST_SHARE)
    return (f"{total:.0%} of its time is in operators that ran in float: {shown}",) if shown else ()
