from __future__ import annotations

import dataclasses
import io
import re

import pytest

from exporter.report.terminal import print_report
from exporter.report.wording import (
    bytes_text,
    cosine_text,
    decibel_text,
    milliseconds_text,
    printable,
    seconds_text,
    share_text,
)
from exporter.results import Verdict
from passes.errors import ExitCode
from tests.support.reports import COMPILED, EAGER, SHAPES, artifact, build_report, speed, stage


def printed(report, width=None, tty=False):
    stream = io.StringIO()
    stream.isatty = lambda: tty
    print_report(report, stream=stream, width=width)
    return stream.getvalue()


def failing():
    report = build_report()
    bad = stage("quantize for openvino int8", "int8", 3.0, 14.0)
    artifacts = [
        artifact("openvino", "int8", 2.5, 4.6, 23_100_000) if a.path == "openvino/int8" else a for a in report.artifacts
    ]
    return dataclasses.replace(
        report,
        stages=(*report.stages[:2], bad),
        artifacts=tuple(artifacts),
        verdict=Verdict.FAILED,
        exit_code=ExitCode.ACCURACY,
    )


def line_with(text, *parts):
    found = [line for line in text.splitlines() if all(part in line for part in parts)]
    assert found, f"no line has {parts}"
    return found[0]


def test_a_pipe_gets_plain_text_with_every_figure():
    text = printed(build_report())
    assert "\x1b" not in text
    row = line_with(text, "openvino int8", "24.0 dB")
    for part in ("0.9960", "3.09x [2.99, 3.18] vs original: faster", "23.1 MB (25%)", "passed"):
        assert part in row
    assert "1.01x [0.98, 1.04] vs original: within noise" in text
    assert "612 -> 96 nodes, 129 rewrites, 2 refused" in text
    assert "2 thread(s), 60 interleaved rounds, original takes 14.2 ms" in text
    assert "WAIVED  tensorrt sm89-fp32: built ahead of time" in text
    assert text.rstrip().splitlines()[-2] == "passed: all gates passed (exit code 0)"


def test_a_failure_names_the_stage_that_the_error_entered_at():
    text = printed(failing())
    assert "FAILED  stage quantize for openvino int8: sqnr_db is 3, the gate 14" in text
    assert "FAILED  artifact openvino int8: the error enters at 'quantize for openvino int8'" in text
    assert "failed: an accuracy gate failed (exit code 3)" in text
    assert "\x1b[1;31mFAILED" in printed(failing(), width=140, tty=True)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 123])
def test_narrow_terminals_lose_no_verdict_and_no_speed(width):
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(failing(), width=width, tty=True))
    assert max(len(line) for line in printed(failing(), width=width).splitlines()) <= width
    for name in ("onnxruntime fp32", "openvino int8", "tensorrt sm89-fp32"):
        assert name in text
    assert "3.09x" in text
    assert "exit code 3" in " ".join(text.split())


def test_shapes_are_told_apart_and_mirror_images_left_out():
    report = build_report()
    fp32, int8 = (f"openvino {precision}" for precision in ("fp32", "int8"))
    small = dataclasses.replace(speed(EAGER, (int8, 2.0)), input_shapes=SHAPES[0])
    sibling = speed((fp32, 7.9), (int8, 4.6))
    mirror = speed((int8, 4.6), (fp32, 7.9))
    artifacts = list(report.artifacts)
    artifacts[2] = dataclasses.replace(artifacts[2], speed=(*artifacts[2].speed, mirror))
    artifacts[3] = dataclasses.replace(artifacts[3], speed=(small, *artifacts[3].speed, sibling))
    text = printed(dataclasses.replace(report, artifacts=tuple(artifacts)))
    assert "vs original at 1x12: faster" in text
    assert "vs torch.compile at 8x32: faster" in text
    assert "vs openvino fp32 at 8x32: faster" in text
    assert "vs openvino int8" not in text
    assert COMPILED[0] in text


def test_names_cannot_steer_the_terminal_or_the_markup():
    report = dataclasses.replace(build_report(), source="[red]x\x1b[2Jy\n", notes=("\x1b]0;title\x07",))
    text = printed(report)
    assert "[red]x\\x1b[2Jy\\n" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_an_empty_report_says_what_it_is():
    empty = dataclasses.replace(
        build_report(),
        stages=(),
        artifacts=(),
        baselines=(),
        pipelines=(),
        verdict=Verdict.NOT_RUN,
        exit_code=ExitCode.NOT_RUN,
    )
    assert "not run: something asked for was not run (exit code 6)" in printed(empty)


def test_wording_is_never_rosier_than_the_figure():
    assert share_text(0.99999) == "99.9%"
    assert share_text(1.0) == "100%"
    assert cosine_text(1 - 3e-9) == "1 - 3e-09"
    assert cosine_text(0.99499) == "0.9949"
    assert cosine_text(1.0) == "1"
    assert decibel_text(float("inf")) == "exact"
    assert decibel_text(float("nan")) == decibel_text(None) == "–"
    assert decibel_text(79.99) == "79.9 dB"
    assert milliseconds_text(0.05) == "50 µs"
    assert milliseconds_text(2500) == "2.5 s"
    assert seconds_text(0.04) == "40 ms"
    assert seconds_text(200) == "3 min 20 s"
    assert seconds_text(59.9) == "1 min 0 s"
    assert bytes_text(999) == "999 B"
    assert bytes_text(86_700_000) == "86.7 MB"
    assert bytes_text(2_000_000_000_000) == "2e+03 GB"
    assert printable("ok é\u202e\x00") == "ok é\\u202e\\x00"
