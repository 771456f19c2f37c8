"""A fault at any stage turns the report red, with exit code 3 and the stage's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import exporter
import passes.catalogue
from exporter.sources.onnx_file import OnnxSource
from passes.base import Context, Pass, PassResult
from passes.errors import ExitCode
from targets.onnxruntime.target import OnnxRuntimeTarget
from tests.support.onnx_sources import classifier, classifier_samples

Outputs = dict[str, np.ndarray]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    return {
        "source": str(classifier(tmp_path / "in" / "model.onnx")),
        "samples": str(classifier_samples(tmp_path / "held_out", seed=1)),
        "out": tmp_path / "out",
        "speed_seconds": 0.0,
    }


def flip_batch_norm_sign(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "BatchNormalization")
    scale = node.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    scale.const_value = ir.tensor(-scale.const_value.numpy(), name=scale.name)


def test_a_sound_build_is_green(files: dict[str, Any]) -> None:
    report = exporter.build(**files)
    assert report.exit_code is ExitCode.OK
    assert report.verdict is exporter.Verdict.PASSED
    assert [stage.stage for stage in report.stages] == ["trace", "optimize"]


def test_a_wrong_trace_is_named(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sound = OnnxSource.trace

    def wrong(self: OnnxSource, work: Path) -> Any:
        traced = sound(self, work)
        flip_batch_norm_sign(traced.model)
        return traced

    monkeypatch.setattr(OnnxSource, "trace", wrong)
    report = exporter.build(**files)
    assert report.exit_code is ExitCode.ACCURACY
    assert report.stages[0].stage == "trace"
    assert report.stages[0].verdict is exporter.Verdict.FAILED


@dataclass(frozen=True)
class FlipBatchNormSign(Pass):
    """A broken pass."""

    name: ClassVar[str] = "flip-batch-norm-sign"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        record = context.recorder(self.name)
        if record.may_apply("batch norm"):
            flip_batch_norm_sign(model)
        return record.result()


def test_a_wrong_pass_is_named(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes.catalogue.PASSES, FlipBatchNormSign.name, FlipBatchNormSign)
    report = exporter.build(**files, pipeline="flip-batch-norm-sign,eliminate-dead-code")
    assert report.exit_code is ExitCode.ACCURACY
    verdicts = {stage.stage: stage.verdict for stage in report.stages}
    assert verdicts == {"trace": exporter.Verdict.PASSED, "optimize": exporter.Verdict.FAILED}


def scaled(outputs: Outputs) -> Outputs:
    return {**outputs, "logits": outputs["logits"] * np.float32(1.01)}


def dropped(outputs: Outputs) -> Outputs:
    return {"features": outputs["features"]}


def extra(outputs: Outputs) -> Outputs:
    return {**outputs, "surprise": outputs["logits"]}


def renamed_into_each_other(outputs: Outputs) -> Outputs:
    return {"logits": outputs["features"], "features": outputs["logits"]}


def with_nan(outputs: Outputs) -> Outputs:
    logits = outputs["logits"].copy()
    logits[-1, -1] = np.nan
    return {**outputs, "logits": logits}


def misshapen(outputs: Outputs) -> Outputs:
    return {**outputs, "logits": outputs["logits"][:, :3]}


def of_another_type(outputs: Outputs) -> Outputs:
    return {**outputs, "logits": outputs["logits"].astype(np.float64)}


def wrong_above_batch_2(outputs: Outputs) -> Outputs:
    logits = outputs["logits"].copy()
    logits[2:] = 0
    return {**outputs, "logits": logits}


FAULTS: list[Callable[[Outputs], Outputs]] = [
    scaled, dropped, extra, renamed_into_each_other, with_nan, misshapen, of_another_type, wrong_above_batch_2,
]  # fmt: skip


def break_runner(monkeypatch: pytest.MonkeyPatch, call: Callable[[Any, Mapping[str, np.ndarray]], Outputs]) -> None:
    sound = OnnxRuntimeTarget.open

    @contextmanager
    def broken(self: OnnxRuntimeTarget, artifact: Any, *, threads: int = 1) -> Any:
        with sound(self, artifact, threads=threads) as runner:
            yield lambda feeds: call(runner, feeds)

    monkeypatch.setattr(OnnxRuntimeTarget, "open", broken)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_artifact_is_named(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: Callable[[Outputs], Outputs]
) -> None:
    break_runner(monkeypatch, lambda runner, feeds: fault(runner(feeds)))
    report = exporter.build(**files)
    assert report.exit_code is ExitCode.ACCURACY
    assert {stage.verdict for stage in report.stages} == {exporter.Verdict.PASSED}
    (artifact,) = report.artifacts
    assert artifact.verdict is exporter.Verdict.FAILED
    assert artifact.accuracy is not None
    assert artifact.accuracy.stage == "onnxruntime fp32"


def test_swapped_inputs_are_found(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    break_runner(monkeypatch, lambda runner, feeds: runner({"image": feeds["other"], "other": feeds["image"]}))
    report = exporter.build(**files)
    assert report.exit_code is ExitCode.ACCURACY
    assert report.artifacts[0].verdict is exporter.Verdict.FAILED


def test_a_wrong_artifact_is_not_timed(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    break_runner(monkeypatch, lambda runner, feeds: scaled(runner(feeds)))
    report = exporter.build(**{**files, "speed_seconds": 0.1})
    assert report.artifacts[0].speed == ()
