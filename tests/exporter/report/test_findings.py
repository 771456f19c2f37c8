"""Findings and what fell back, in each report."""

from __future__ import annotations

import dataclasses
import io
import json

from exporter.evaluation.fallbacks import fallback_texts
from exporter.report.html import html_text
from exporter.report.json import report_to_text
from exporter.report.summary import executed_text
from exporter.report.terminal import print_report
from exporter.results import BuildReport, Finding
from tests.support.reports import artifact, build_report

EXECUTED = {
    "int8_planned": 9,
    "float_fallbacks": ["conv_1", "conv_2", "lstm"],
    "untraced": ["odd"],
    "conversions": 14,
    "fallbacks": [
        {"node": "conv_1", "operator": "Conv", "reason": "its output is read by <Softmax>"},
        {"node": "conv_2", "operator": "Conv", "reason": "its output is read by <Softmax>"},
        {"node": "lstm", "operator": "LSTM", "reason": "no kernel"},
    ],
}
FINDING = Finding(
    "quantized is slower",
    "openvino int8",
    "openvino int8 is not faster: 0.61x",
    ("3 of 9 planned int8 operators ran in float", "14 conversions\x1b[2J"),
    "Use openvino fp32.",
    "openvino fp32",
)


def report() -> BuildReport:
    slow = dataclasses.replace(artifact("openvino", "int8", 24.0, 4.6, 100), details={"executed": EXECUTED})
    return dataclasses.replace(build_report(), artifacts=(slow,), findings=(FINDING,))


def test_the_summary_counts_what_ran_in_int8():
    (slow,) = report().artifacts
    text = "5 of 9 planned int8 operators ran in int8, 3 fell back to float, 1 cannot be told, 14 conversions left"
    assert executed_text(slow) == text
    assert executed_text(artifact("openvino", "fp32", 120.0, 4.6, 100)) == ""


def test_fallbacks_of_one_reason_stand_together():
    assert fallback_texts(EXECUTED) == (
        "2 of 9 planned int8 operators ran in float (conv_1, conv_2): its output is read by <Softmax>",
        "1 of 9 planned int8 operators ran in float (lstm): no kernel",
    )
    many = {"int8_planned": 7, "fallbacks": [{"node": f"n{index}", "reason": "r"} for index in range(7)]}
    assert fallback_texts(many) == ("7 of 7 planned int8 operators ran in float (n0, n1, n2, n3, n4 and 2 more): r",)


def test_the_terminal_tells_finding_reasons_and_advice():
    stream = io.StringIO()
    print_report(report(), stream=stream)
    text = stream.getvalue()
    assert "QUANTIZED IS SLOWER  openvino int8 is not faster: 0.61x" in text
    assert "5 of 9 planned int8 operators ran in int8" in text
    assert "(lstm): no kernel" in text
    assert "Use openvino fp32." in text
    assert "\x1b" not in text


def test_the_page_tells_them_too_and_escapes_names():
    page = html_text(report())
    assert "Quantized is slower: openvino int8" in page
    assert "its output is read by &lt;Softmax&gt;" in page
    assert "<Softmax>" not in page
    assert "\x1b" not in page
    assert "Quantized is slower" not in html_text(build_report())


def test_report_json_holds_them():
    document = json.loads(report_to_text(report()))
    assert document["findings"][0]["recommended"] == "openvino fp32"
    assert document["artifacts"][0]["details"]["executed"]["fallbacks"][2]["reason"] == "no kernel"
