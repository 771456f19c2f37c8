from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser

import pytest

from exporter.report import REPORT_FILES, write_reports
from exporter.report.charts import LABEL_WIDTH, VALUE_WIDTH, WIDTH, accuracy_chart, latency_charts, size_chart
from exporter.report.html import html_text
from exporter.results import Gate, Latency, StageAccuracy, Verdict
from passes.base import Event, PassResult
from passes.errors import ExitCode, UsageError
from tests.support.reports import build_report, output, pipeline, speed, stage

VOID = {"meta", "br", "hr", "img", "link", "input"}
ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Which tags a page has, whether they nest, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.loads, self.handlers, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "action")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_is_whole_and_needs_nothing_from_elsewhere():
    text = html_text(build_report())
    page = Page(text)
    assert page.tags.count("svg") >= 3
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not page.loads
    assert not page.handlers
    assert "@import" not in text
    assert "url(" not in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def test_the_page_says_all_that_the_report_holds():
    text = Page(html_text(build_report())).text
    for part in (
        "all gates passed (exit code 0)",
        "openvino int8",
        "3.09x [2.99, 3.18] vs original: faster",
        "output 'erf_6' also feeds Relu_3",
        "612 → 96 nodes",
        "fold-constants,fuse-gelu,fuse-attention",
        "data-dependent branch in pooling",
        "this machine has no GPU",
        "Example CPU, 2 cores",
        "128 samples",
        "attention_mask [1, 12], input_ids [1, 12]",
        "≥ 80",
    ):
        assert part in text, part


def test_equal_reports_give_equal_pages():
    assert html_text(build_report()) == html_text(build_report())


def test_every_name_is_escaped():
    event = Event(ATTACK, ATTACK, ATTACK)
    report = build_report()
    hostile = dataclasses.replace(
        report,
        source=ATTACK,
        source_sha256=ATTACK,
        notes=(ATTACK,),
        environment={ATTACK: ATTACK},
        samples={ATTACK: ATTACK},
        seconds={ATTACK: 1.0},
        baselines=(dataclasses.replace(speed((ATTACK, 1.0), (ATTACK + "2", 2.0)), input_shapes=ATTACK),),
        attempts=(dataclasses.replace(report.attempts[0], strategy=ATTACK, reason=ATTACK),),
        pipelines=(
            dataclasses.replace(pipeline(ATTACK), pipeline=ATTACK, results=(PassResult(ATTACK, (event,), (event,)),)),
        ),
        stages=(
            stage(
                ATTACK,
                sqnr_db=1.0,
                reason=ATTACK,
                input_shapes=(ATTACK,),
                outputs=(output(ATTACK, 1.0, problems=(ATTACK,), notes=(ATTACK,), worst_sample=ATTACK),),
                gates=(Gate("cosine", 1.0, 0.5, Verdict.FAILED, ATTACK),),
            ),
        ),
        artifacts=(
            dataclasses.replace(
                report.artifacts[0],
                target=ATTACK,
                label=ATTACK,
                path=ATTACK,
                verdict=Verdict.FAILED,
                reason=ATTACK,
                blockers=(ATTACK,),
                waived=(ATTACK,),
                details={ATTACK: {ATTACK: ATTACK}},
            ),
        ),
    )
    text = html_text(hostile)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not page.handlers
    assert text.count("&lt;script&gt;") > 20


def test_a_failure_stands_at_the_top_and_its_stage_is_open():
    report = build_report()
    failed = dataclasses.replace(
        report,
        stages=(report.stages[0], stage("optimize", sqnr_db=40.0)),
        verdict=Verdict.FAILED,
        exit_code=ExitCode.ACCURACY,
    )
    text = html_text(failed)
    assert "an accuracy gate failed (exit code 3)" in text
    assert text.index("What failed") < text.index("<h2>Artifacts")
    assert re.search(r"<details open>\s*<summary>optimize", text)
    assert "What failed" not in html_text(report)


def test_sparse_reports_make_a_page_too():
    bare = dataclasses.replace(
        build_report(),
        attempts=(),
        pipelines=(),
        stages=(),
        artifacts=(),
        baselines=(),
        environment={},
        samples={},
        seconds={},
        notes=(),
    )
    assert "No artifact was asked for or made" in Page(html_text(dataclasses.replace(bare, model_size_bytes=0))).text
    crashed = StageAccuracy("trace", "fp32", Verdict.FAILED, reason="it crashed")
    assert "it crashed" in Page(html_text(dataclasses.replace(bare, stages=(crashed,)))).text


@pytest.mark.parametrize("sqnr_db", [math.inf, -math.inf, math.nan, -20.0, 0.0, 150.0])
def test_marks_stay_inside_the_plot(sqnr_db):
    report = build_report()
    report = dataclasses.replace(report, stages=(stage("trace", sqnr_db=sqnr_db), *report.stages))
    Page(html_text(report))
    chart = accuracy_chart(report)
    for mark in chart.marks:
        assert LABEL_WIDTH <= mark.x <= WIDTH - VALUE_WIDTH
        assert mark.gate_x is None or LABEL_WIDTH <= mark.gate_x <= WIDTH - VALUE_WIDTH


def test_latency_charts_show_each_label_once_per_shape_and_keep_outliers_inside():
    report = build_report()
    (chart,) = latency_charts(report)
    labels = [mark.label for mark in chart.marks]
    assert labels[:2] == ["original", "torch.compile"]
    assert len(labels) == len(set(labels)) == 7
    assert [mark.tone for mark in chart.marks[:3]] == ["original", "original", "plain"]
    wild = Latency("original", 1.0, 0.9, math.inf, 3, (1.0, 1.1, 1000.0))
    odd = dataclasses.replace(speed(("original", 1.0), ("b", 1.0)), baseline=wild, input_shapes="x [1]")
    charts = latency_charts(dataclasses.replace(report, baselines=(odd, *report.baselines)))
    assert len(charts) == 2
    for mark in charts[0].marks:
        assert LABEL_WIDTH <= mark.low_x <= mark.x <= mark.high_x <= WIDTH - VALUE_WIDTH
        assert all(LABEL_WIDTH <= x <= WIDTH - VALUE_WIDTH for x in mark.dots)


def test_bar_lengths_are_in_proportion():
    marks = {mark.label: mark.x - LABEL_WIDTH for mark in size_chart(build_report()).marks}
    assert marks["openvino int8"] / marks["fp32 model"] == pytest.approx(23.1 / 90.9, rel=0.01)


def test_all_files_are_written_and_an_unwritable_folder_is_a_usage_error(tmp_path):
    write_reports(build_report(), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(REPORT_FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_reports(build_report(), tmp_path / "file" / "out")
    write_reports(dataclasses.replace(build_report(), source="bad\udcff.py"), tmp_path / "out")
