"""The geometry of a search's plot: each candidate's latency and accuracy, the front through the best of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.evaluation.tolerance import GATES
from exporter.report.charts import WIDTH, Tick, nice_step
from exporter.report.wording import UNKNOWN, bytes_text, decibel_text, milliseconds_text, number_text, printable
from exporter.search.findings import SearchReport, SearchTrial

HEIGHT = 300.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 24.0, 14.0, 34.0


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate; `tone` is a CSS class: "chosen", "met" or "missed"."""

    x: float
    y: float
    tone: str
    title: str
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """What the template draws. front: the polyline through the candidates on it; gate_y: where the gate stands."""

    title: str
    description: str
    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    front: str
    gate_y: float | None
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A candidate's line in the table."""

    name: str
    accuracy: str
    sqnr: str
    latency: str
    size: str
    remark: str


def trial_rows(search: SearchReport) -> tuple[TrialRow, ...]:
    """Return every trial in words, the fastest first."""
    return tuple(
        TrialRow(
            name=printable(trial.title),
            accuracy=number_text(trial.figures.get(search.objective)),
            sqnr=decibel_text(trial.sqnr_db),
            latency=", ".join(f"{milliseconds_text(ms)} at {shapes}" for shapes, ms in trial.latency_ms.items())
            or UNKNOWN,
            size=bytes_text(trial.size_bytes) if trial.size_bytes else UNKNOWN,
            remark=_remark(trial),
        )
        for trial in search.trials
    )


def _remark(trial: SearchTrial) -> str:
    parts = [
        "chosen" if trial.is_chosen else "",
        "on the front" if trial.is_on_front else "",
        "" if trial.is_met else "misses a gate",
        trial.reason,
    ]
    return printable(", ".join(filter(None, parts)))


def pareto_plot(search: SearchReport, title: str) -> Plot | None:
    """Return accuracy over latency at the last input shape; None when fewer than two candidates have both."""
    shown = [(trial, accuracy) for trial in search.trials if (accuracy := _accuracy(trial, search)) is not None]
    if len(shown) < 2:
        return None
    shapes = list(shown[0][0].latency_ms)[-1]
    gate = _threshold(search)
    times = [trial.latency_ms[shapes] for trial, _ in shown]
    figures = [accuracy for _, accuracy in shown] + ([gate] if gate is not None else [])
    x_axis, y_axis = _Axis(0.0, max(times) * 1.05), _Axis(*_padded(figures))
    points = tuple(
        Point(
            x=x_axis.at(trial.latency_ms[shapes], LEFT, WIDTH - RIGHT),
            y=y_axis.at(accuracy, HEIGHT - BOTTOM, TOP),
            tone="chosen" if trial.is_chosen else "met" if trial.is_met else "missed",
            title=f"{printable(trial.title)}: {search.objective} {number_text(accuracy)}, "
            f"{milliseconds_text(trial.latency_ms[shapes])}, {bytes_text(trial.size_bytes)}",
            label=printable(trial.title) if trial.is_chosen or not trial.kept else "",
        )
        for trial, accuracy in shown
    )
    best = [point for point, (trial, _) in zip(points, shown, strict=True) if trial.is_on_front]
    good = "up" if GATES[search.objective].bound == "at least" else "down"
    description = (
        f"{search.objective} on {search.validation_samples} validation samples over milliseconds a call at {shapes}. "
        f"Further left and {good} is better; the line joins the front, the dashed one is the gate with its margin."
    )
    return Plot(
        title=title,
        description=description,
        points=points,
        x_ticks=tuple(Tick(x_axis.at(value, LEFT, WIDTH - RIGHT), f"{value:g} ms") for value in x_axis.marks()),
        y_ticks=tuple(Tick(y_axis.at(value, HEIGHT - BOTTOM, TOP), f"{value:.6g}") for value in y_axis.marks()),
        front=" ".join(f"{point.x},{point.y}" for point in sorted(best, key=lambda point: point.x)),
        gate_y=y_axis.at(gate, HEIGHT - BOTTOM, TOP) if gate is not None else None,
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    least: float
    greatest: float

    def at(self, value: float, start: float, end: float) -> float:
        share = (value - self.least) / (self.greatest - self.least)
        return round(start + min(max(share, 0.0), 1.0) * (end - start), 2)

    def marks(self) -> list[float]:
        step = nice_step(self.greatest - self.least)
        first = math.ceil(self.least / step - 1e-9)
        last = math.floor(self.greatest / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def _accuracy(trial: SearchTrial, search: SearchReport) -> float | None:
    figure = trial.figures.get(search.objective)
    return figure if trial.latency_ms and figure is not None and math.isfinite(figure) else None


def _threshold(search: SearchReport) -> float | None:
    for text in search.gates:
        name, _, value = text.partition("=")
        if name == search.objective:
            return float(value)
    return None


def _padded(figures: Sequence[float]) -> tuple[float, float]:
    least, greatest = min(figures), max(figures)
    margin = 0.06 * (greatest - least) or max(abs(greatest), 1.0) * 0.01
    return least - margin, greatest + margin
