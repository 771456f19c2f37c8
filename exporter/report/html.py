"""report.html: one self-contained page; no script, no font, no picture from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.evaluation.tolerance import GATES
from exporter.report import wording
from exporter.report.charts import (
    AXIS_HEIGHT,
    LABEL_WIDTH,
    ROW_HEIGHT,
    VALUE_WIDTH,
    WIDTH,
    accuracy_chart,
    latency_charts,
    size_chart,
)
from exporter.report.pareto import pareto_plot, trial_rows
from exporter.report.summary import (
    all_gates,
    artifact_name,
    artifact_row,
    executed_text,
    failures,
    fallback_rows,
    headline,
    omissions,
    stage_row,
)
from exporter.results import BuildReport

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "page.html.j2"

MOST_EVENTS = 200
"""How many refusals of one pass are listed."""


def html_text(report: BuildReport) -> str:
    """Return the page; equal reports give equal text. Every name is escaped."""
    accuracy = accuracy_chart(report)
    size = size_chart(report)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            headline=headline(report),
            charts=[chart for chart in (accuracy, *latency_charts(report), size) if chart is not None],
            chart_size={
                "width": WIDTH,
                "label": LABEL_WIDTH,
                "value": VALUE_WIDTH,
                "row": ROW_HEIGHT,
                "axis": AXIS_HEIGHT,
            },
            searches=_searches(report),
            failures=failures(report),
            omissions=omissions(report),
            stages=[(stage_row(stage), stage) for stage in _all_stages(report)],
            artifacts=[
                (artifact_row(artifact, report), all_gates(artifact), artifact) for artifact in report.artifacts
            ],
            most_events=MOST_EVENTS,
        )
    )


def _searches(report: BuildReport) -> list[Any]:
    """Return each artifact whose precision was searched for, with the lines of its table and its plot."""
    return [
        (artifact, trial_rows(artifact.search), pareto_plot(artifact.search, "Accuracy against latency"))
        for artifact in report.artifacts
        if artifact.search is not None
    ]


def _all_stages(report: BuildReport) -> list[Any]:
    """Return the stages, then the artifacts' own comparisons that are not among them."""
    known = {stage.stage for stage in report.stages}
    accuracies = [artifact.accuracy for artifact in report.artifacts if artifact.accuracy is not None]
    return [*report.stages, *(accuracy for accuracy in accuracies if accuracy.stage not in known)]


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("exporter.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        printable=lambda value: wording.printable(str(value)),
        decibels=wording.decibel_text,
        cosine=wording.cosine_text,
        share=wording.share_text,
        seconds=wording.seconds_text,
        number=wording.number_text,
        sign=lambda name: "≥" if GATES[name].bound == "at least" else "≤",
        artifact_name=artifact_name,
        executed=executed_text,
        fallbacks=fallback_rows,
        sum_of=lambda rows, name: sum(getattr(row, name) for row in rows),
    )
    return environment
