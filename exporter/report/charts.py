"""The geometry of the page's charts: rows of bars and intervals, in the units of an SVG viewBox."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.report.summary import artifact_name, compact_shapes
from exporter.report.wording import bytes_text, decibel_text, milliseconds_text, printable
from exporter.results import BuildReport, Latency, StageAccuracy, Verdict

WIDTH = 720.0
LABEL_WIDTH = 190.0
VALUE_WIDTH = 90.0
ROW_HEIGHT = 26.0
AXIS_HEIGHT = 26.0
MOST_LABEL_CHARS = 28
MOST_DOTS = 80

_PLOT_WIDTH = WIDTH - LABEL_WIDTH - VALUE_WIDTH


@dataclass(frozen=True, slots=True)
class Mark:
    """One row: a bar from the axis to `x`, or an interval from `low_x` to `high_x` around it.

    tone: a CSS class. gate_x: where a threshold's tick stands. dots: x of single measurements.
    """

    label: str
    title: str
    value: str
    y: float
    x: float
    tone: str
    gate_x: float | None = None
    low_x: float | None = None
    high_x: float | None = None
    dots: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of the axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws."""

    title: str
    description: str
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    kind: str

    @property
    def height(self) -> float:
        return AXIS_HEIGHT + ROW_HEIGHT * len(self.marks) + 4


@dataclass(frozen=True, slots=True)
class _Axis:
    greatest: float

    def x(self, value: float) -> float:
        share = min(max(value / self.greatest, 0.0), 1.0) if self.greatest > 0 else 0.0
        return round(LABEL_WIDTH + share * _PLOT_WIDTH, 2)

    def ticks(self, unit: str) -> tuple[Tick, ...]:
        step = nice_step(self.greatest)
        count = math.floor(self.greatest / step + 1e-9)
        return tuple(Tick(self.x(index * step), f"{index * step:g}{unit}") for index in range(count + 1))


def accuracy_chart(report: BuildReport) -> Chart | None:
    """Return the signal-to-error ratio of each stage and artifact with its gate; None where nothing was measured."""
    stages = {stage.stage: stage for stage in report.stages}
    for artifact in report.artifacts:
        if artifact.accuracy is not None:
            stages.setdefault(artifact.accuracy.stage, artifact.accuracy)
    measured = [(stage, _least_sqnr(stage)) for stage in stages.values()]
    shown = [(stage, sqnr) for stage, sqnr in measured if sqnr is not None or stage.verdict is Verdict.FAILED]
    if not shown:
        return None
    finite = [sqnr for _, sqnr in shown if sqnr is not None and math.isfinite(sqnr)]
    axis = _Axis(_round_up(max([100.0, *finite, *(gate for stage, _ in shown if (gate := _gate_db(stage)))])))
    marks = []
    for row, (stage, sqnr) in enumerate(shown):
        gate = _gate_db(stage)
        marks.append(
            Mark(
                label=_short(stage.stage),
                title=printable(stage.stage),
                value=decibel_text(sqnr),
                y=_y(row),
                x=axis.x(sqnr if sqnr is not None else 0.0),
                tone=_tone(stage.verdict),
                gate_x=axis.x(gate) if gate is not None else None,
            )
        )
    description = "Signal over error, dB, against the original; the tick is the gate. Further right is better."
    return Chart("Accuracy, stage by stage", description, tuple(marks), axis.ticks(" dB"), "bars")


def latency_charts(report: BuildReport) -> tuple[Chart, ...]:
    """Return one chart for each input shape: medians with intervals and single rounds, the original first."""
    shapes: dict[str, dict[str, Latency]] = {}
    threads: dict[str, int] = {}
    comparisons = [*report.baselines, *(speed for artifact in report.artifacts for speed in artifact.speed)]
    for speed in comparisons:
        rows = shapes.setdefault(speed.input_shapes, {})
        threads[speed.input_shapes] = speed.threads
        rows.setdefault(speed.baseline.label, speed.baseline)
        rows.setdefault(speed.candidate.label, speed.candidate)
    originals = {speed.baseline.label for speed in report.baselines} | {s.candidate.label for s in report.baselines}
    return tuple(
        _latency_chart(rows.values(), shape, threads[shape], originals) for shape, rows in shapes.items() if rows
    )


def _latency_chart(rows: Iterable[Latency], shape: str, threads: int, originals: set[str]) -> Chart:
    latencies = list(rows)
    axis = _Axis(_round_up(max(_upper(latency) for latency in latencies) * 1.02))
    marks = tuple(
        Mark(
            label=_short(latency.label),
            title=printable(latency.label),
            value=milliseconds_text(latency.median_ms),
            y=_y(row),
            x=axis.x(latency.median_ms),
            tone="original" if latency.label in originals else "plain",
            low_x=axis.x(latency.low_ms if math.isfinite(latency.low_ms) else 0.0),
            high_x=axis.x(latency.high_ms if math.isfinite(latency.high_ms) else axis.greatest),
            dots=tuple(axis.x(time) for time in _thinned(latency.times_ms)),
        )
        for row, latency in enumerate(latencies)
    )
    runs = min(latency.runs for latency in latencies)
    description = (
        f"Milliseconds a call at {printable(shape)}, {threads} thread(s), {runs} interleaved rounds. "
        "Bar: 95% interval of the median; dots: single rounds. Further left is better."
    )
    return Chart(f"Latency at {compact_shapes(shape)}", description, marks, axis.ticks(" ms"), "intervals")


def size_chart(report: BuildReport) -> Chart | None:
    """Return the artifacts' sizes, the fp32 model first; None where none is known."""
    sizes = [("fp32 model", report.model_size_bytes, "original")] if report.model_size_bytes else []
    sizes += [
        (artifact_name(artifact), artifact.size_bytes, "plain") for artifact in report.artifacts if artifact.size_bytes
    ]
    if not sizes:
        return None
    axis = _Axis(_round_up(max(size for _, size, _ in sizes) / 1e6))
    marks = tuple(
        Mark(_short(name), name, bytes_text(size), _y(row), axis.x(size / 1e6), tone)
        for row, (name, size, tone) in enumerate(sizes)
    )
    return Chart("Size", "Megabytes on disk. Further left is better.", marks, axis.ticks(" MB"), "bars")


def _least_sqnr(stage: StageAccuracy) -> float | None:
    found = [output.sqnr_db for output in stage.outputs if not output.is_exact and output.sqnr_db == output.sqnr_db]
    return min(found, default=None)


def _gate_db(stage: StageAccuracy) -> float | None:
    return next((gate.threshold for gate in stage.gates if gate.name == "sqnr_db"), None)


def _upper(latency: Latency) -> float:
    """Return what the axis must reach: the interval and nine tenths of the rounds; outliers beyond stick to its end."""
    ordered = sorted(latency.times_ms)
    usual = ordered[int(len(ordered) * 0.9)] if ordered else 0.0
    return max(latency.median_ms, latency.high_ms if math.isfinite(latency.high_ms) else 0.0, usual)


def _thinned(times: Sequence[float]) -> Sequence[float]:
    return times[:: max(1, math.ceil(len(times) / MOST_DOTS))]


def _tone(verdict: Verdict) -> str:
    return {Verdict.PASSED: "passed", Verdict.FAILED: "failed"}.get(verdict, "not-run")


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= MOST_LABEL_CHARS else text[: MOST_LABEL_CHARS - 1] + "…"


def _y(row: int) -> float:
    return 4 + row * ROW_HEIGHT


def nice_step(greatest: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that makes at most six steps."""
    if greatest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(greatest / 6))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if greatest / (factor * power) <= 6)


def _round_up(value: float) -> float:
    step = nice_step(value) / 2
    return math.ceil(value / step - 1e-9) * step if value > 0 else 1.0
