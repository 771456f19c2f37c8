"""A search in the reports: the plot's geometry, the table, and names that cannot harm the page."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from exporter.report.html import html_text
from exporter.report.pareto import HEIGHT, LEFT, RIGHT, pareto_plot, trial_rows
from exporter.report.terminal import print_report
from exporter.results import BuildReport
from exporter.search.findings import KeptLayer, LayerSensitivity, SearchReport, SearchTrial
from tests.support.reports import build_report

ATTACK = "\"'><script>alert(1)</script>"


def trial(title: str, cosine: float, milliseconds: float | None, **others: object) -> SearchTrial:
    latency = {} if milliseconds is None else {"1x12": milliseconds / 4, "8x32": milliseconds}
    values = {"precision": "int8", "rest": "", "kept": (), "is_met": cosine >= 0.99925, **others}
    return SearchTrial(title=title, figures={"cosine": cosine}, latency_ms=latency, size_bytes=40_000_000, **values)  # type: ignore[arg-type]


SEARCH = SearchReport(
    chosen="int8 with 2 kept in fp32",
    why="int8 alone misses the gates",
    is_met=True,
    gates=("cosine=0.99925", "sqnr_db=15"),
    objective="cosine",
    trials=(
        trial("int8", 0.9972, 5.0, is_on_front=True),
        trial("int8 with 2 kept in fp32", 0.9994, 5.5, kept=("a", ATTACK), is_on_front=True, is_chosen=True),
        trial("int8 with 1 kept in fp32", 0.9981, None, kept=("a",)),
        trial("bf16", 0.9996, 8.0, is_on_front=True),
        trial("fp32", 0.999999, 12.0, is_on_front=True),
        trial("fp16", 0.99999, 14.0),
    ),
    kept=(KeptLayer(ATTACK, "Conv", "alone in int8 it leaves the outputs 3.1 dB"),),
    sensitivity=(
        LayerSensitivity(ATTACK, "Conv", 3.1, 0.9, 0.25),
        LayerSensitivity("b", "Conv", float("inf"), 1, 0.75),
    ),
    calibration_samples=8,
    validation_samples=8,
    notes=("Other processes disturbed the timing.",),
)


def report(search: SearchReport = SEARCH) -> BuildReport:
    whole = build_report()
    return replace(whole, artifacts=(replace(whole.artifacts[0], label="auto", search=search), *whole.artifacts[1:]))


def test_faster_is_left_and_more_accurate_is_up() -> None:
    plot = pareto_plot(SEARCH, "title")
    assert plot is not None
    assert len(plot.points) == 5, "what was not timed has no place"
    assert [point.x for point in plot.points] == sorted(point.x for point in plot.points)
    assert plot.points[0].y > plot.points[1].y > plot.points[2].y
    assert all(LEFT <= point.x <= 720 - RIGHT and 0 <= point.y <= HEIGHT for point in plot.points)
    assert [point.tone for point in plot.points] == ["missed", "chosen", "met", "met", "met"]
    assert plot.gate_y is not None
    assert plot.points[0].y > plot.gate_y > plot.points[1].y
    assert len(plot.front.split()) == 4
    assert "8x32" in plot.description


def test_a_gate_that_is_an_upper_bound_says_so() -> None:
    trials = tuple(replace(each, figures={"max_abs": 1 - each.figures["cosine"]}) for each in SEARCH.trials)
    plot = pareto_plot(replace(SEARCH, objective="max_abs", gates=("max_abs=0.1",), trials=trials), "title")
    assert plot is not None
    assert "left and down" in plot.description


@pytest.mark.parametrize("count", [0, 1])
def test_one_point_is_no_plot(count: int) -> None:
    search = replace(SEARCH, trials=SEARCH.trials[:count])
    assert pareto_plot(search, "title") is None
    assert "how its precision was chosen" in html_text(report(search))


def test_the_table_tells_every_candidate() -> None:
    rows = trial_rows(SEARCH)
    assert [row.name for row in rows] == [each.title for each in SEARCH.trials]
    assert rows[0].remark == "on the front, misses a gate"
    assert rows[1].remark == "chosen, on the front"
    assert rows[2].latency == "–"
    assert rows[3].latency == "2 ms at 1x12, 8 ms at 8x32"


def test_names_are_escaped_on_the_page_and_all_is_in_it() -> None:
    page = html_text(report())
    assert "<script>" not in page
    for words in ("int8 alone misses the gates", "<polyline", "3.1 dB", "25%", "disturbed", "cosine=0.99925"):
        assert words in page


def test_the_terminal_tells_the_winner_the_table_and_the_kept() -> None:
    stream = io.StringIO()
    print_report(report(), stream=stream, width=160)
    text = stream.getvalue()
    for words in ("candidates, the fastest first", "int8 alone misses", "kept: ", "3.1 dB", "disturbed"):
        assert words in text
