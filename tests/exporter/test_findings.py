"""A quantized artifact that is not faster than a float one is flagged with its causes, on real runtimes; others not."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import exporter
from exporter.evaluation.gates import parse_gates
from exporter.evaluation.speed import measure
from exporter.findings import DISTURBED, SLOWER, slower_quantized
from exporter.results import Verdict
from passes.errors import ExitCode, UsageError
from targets.base import BuildOptions
from targets.registry import get_target
from tests.support.quantized_chains import fast_products, recurrence, slow_convolutions
from tests.support.reports import artifact, speed


@pytest.fixture(autouse=True)
def _own_time(monkeypatch: pytest.MonkeyPatch):
    """Time what this process computes, so that nothing depends on what else runs on the machine."""
    monkeypatch.setattr("exporter.timing.measure", partial(measure, clock_ns=time.process_time_ns))
    monkeypatch.setattr("exporter.evaluation.speed.share_of_others", lambda *_: 0.0)


def built(folder: Path, target: str, graph) -> Path:
    for precision in ("fp32", "int8"):
        out = folder / target / precision
        out.mkdir(parents=True)
        get_target(target).build(graph(quantized=precision == "int8"), out, BuildOptions(precision=precision))
    return folder


def benched(folder: Path, **options: object):
    return exporter.bench(folder, threads=1, seconds=0.3, **options)


def test_float_fallbacks_are_found_slower_and_explained(tmp_path: Path):
    report = benched(built(tmp_path, "onnxruntime", slow_convolutions), gates=("int8:speedup_over_float=1.0",))
    (finding,) = report.findings
    assert (finding.kind, finding.subject, finding.recommended) == (SLOWER, "onnxruntime int8", "onnxruntime fp32")
    assert any("12 of 12 planned int8 operators ran in float (conv_0" in reason for reason in finding.reasons)
    assert any("read by the float operator Abs" in reason for reason in finding.reasons)
    assert any("conversions between 8-bit integers and float" in reason and "%" in reason for reason in finding.reasons)
    assert any("of its time is in operators that ran in float: " in reason for reason in finding.reasons)
    (gate,) = next(each for each in report.artifacts if each.label == "int8").gates
    assert (gate.name, gate.verdict, report.exit_code) == ("speedup_over_float", Verdict.FAILED, ExitCode.SPEED)
    assert next(each for each in report.artifacts if each.label == "fp32").gates == ()


def test_a_recurrence_without_int8_kernel_is_found_slower(tmp_path: Path):
    (finding,) = benched(built(tmp_path, "onnxruntime", recurrence)).findings
    assert any("(lstm): the runtime has no int8 kernel for LSTM" in reason for reason in finding.reasons)
    assert any("LSTM" in reason and "ran in float" in reason for reason in finding.reasons)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_faster_products_are_not_flagged(target: str, tmp_path: Path):
    report = benched(built(tmp_path, target, fast_products), gates=("int8:over_float=1.0",))
    assert report.findings == ()
    (gate,) = next(each for each in report.artifacts if each.label == "int8").gates
    assert (gate.verdict, report.exit_code) == (Verdict.PASSED, ExitCode.OK)


def timed(precision: str, median_ms: float, *others: tuple[str, float], **changes: object):
    base = artifact("onnxruntime", precision, 120.0, median_ms, 1000)
    speeds = tuple(replace(speed(other, (f"onnxruntime {precision}", median_ms)), **changes) for other in others)
    return replace(base, speed=speeds)


def test_the_fastest_float_artifact_is_the_one_to_beat():
    bf16, fp32 = timed("bf16", 5.0), timed("fp32", 10.0)
    int8 = timed("int8", 7.0, ("onnxruntime bf16", 5.0), ("onnxruntime fp32", 10.0))
    (finding,) = slower_quantized((bf16, fp32, int8), {}, (), threads=1)
    assert finding.recommended == "onnxruntime bf16"
    assert slower_quantized((fp32, int8), {}, (), threads=1) == ()


@pytest.mark.parametrize(("median_ms", "is_flagged"), [(10.0, True), (5.0, False), (20.0, True)])
def test_within_noise_is_not_faster(median_ms: float, is_flagged: bool):
    reports = (timed("fp32", 10.0), timed("int8", median_ms, ("onnxruntime fp32", 10.0)))
    assert bool(slower_quantized(reports, {}, (), threads=1)) is is_flagged


def test_nothing_is_concluded_on_a_busy_machine():
    reports = (timed("fp32", 10.0), timed("int8", 20.0, ("onnxruntime fp32", 10.0), is_disturbed=True))
    (finding,) = slower_quantized(reports, {}, (), threads=1)
    assert finding.kind == DISTURBED


def test_a_profiler_that_fails_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("the counters are off")

    monkeypatch.setattr("targets.onnxruntime.profile.profile_artifact", failing)
    (finding,) = benched(built(tmp_path, "onnxruntime", slow_convolutions)).findings
    assert any("ran in float (conv_0" in reason for reason in finding.reasons)
    assert not any("of its time" in reason for reason in finding.reasons)


def test_other_targets_are_no_rivals():
    other = replace(timed("fp32", 1.0), target="openvino")
    int8 = timed("int8", 20.0, ("openvino fp32", 1.0))
    assert slower_quantized((other, int8), {}, (), threads=1) == ()


@pytest.mark.parametrize(
    ("text", "precisions", "match"),
    [
        ("over_float=1", ("fp32",), "none is meant"),
        ("fp32:over_float=1", ("fp32", "int8"), "none is meant"),
        ("int8:over_float=1", ("int8",), "none is built"),
    ],
)
def test_a_gate_that_nothing_is_held_to_is_refused(text: str, precisions: tuple[str, ...], match: str):
    with pytest.raises(UsageError, match=match):
        parse_gates([text], targets=["onnxruntime"], precisions=precisions)


def test_a_build_reports_what_ran_in_int8(tmp_path: Path):
    import numpy as np
    import onnx_ir as ir

    path = tmp_path / "model.onnx"
    ir.save(fast_products(quantized=False, count=2), path)
    for name, seed in (("calibration", 0), ("samples", 1)):
        np.savez(tmp_path / f"{name}.npz", x=np.random.default_rng(seed).normal(size=(64, 1024)).astype(np.float32))
    exporter.build(
        str(path),
        tmp_path / "out",
        precisions="fp32,int8",
        targets="onnxruntime",
        calibration=str(tmp_path / "calibration.npz"),
        samples=str(tmp_path / "samples.npz"),
        speed_seconds=0.3,
        gates="int8:over_float=1.0",
        threads=1,
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    int8 = next(each for each in report["artifacts"] if each["precision"] == "int8")
    assert int8["details"]["executed"]["int8_planned"] == 2
    assert int8["details"]["executed"]["fallbacks"] == []
    assert "speedup_over_float" in {gate["name"] for gate in int8["gates"]}
    assert report["findings"] == []
    assert "2 of 2 planned int8 operators ran in int8" in (tmp_path / "out" / "report.html").read_text()
