"""build as a function: text for targets, and settings that must reach the stage that they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.building import build
from passes.quantize import calibrate as calibration
from tests.support.onnx_sources import classifier, classifier_samples


def test_targets_as_text_and_how_int8_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods: list[str] = []
    genuine = calibration.calibrate

    def watched(*arguments: Any, **settings: Any) -> Any:
        methods.append(settings["method"])
        return genuine(*arguments, **settings)

    monkeypatch.setattr(calibration, "calibrate", watched)
    report = build(
        str(classifier(tmp_path / "m.onnx")),
        tmp_path / "out",
        samples=str(classifier_samples(tmp_path / "held_out", seed=1)),
        calibration=str(classifier_samples(tmp_path / "calibration", seed=2, count=12)),
        targets=("onnxruntime",),
        precisions="int8",
        quantize="quantize-static{granularity=tensor}",
        ranges="minmax",
        speed_seconds=0,
    )
    assert methods == ["minmax"]
    assert report.samples["ranges"] == "minmax"
    assert any("quantize-static{granularity=tensor}" in pipeline.pipeline for pipeline in report.pipelines)
