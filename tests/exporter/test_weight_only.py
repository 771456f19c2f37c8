"""Weight-only artifacts by every method, from samples on disk to the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import exporter
from passes.quantize.weight_only.methods import METHODS
from passes.serialization import save_model
from tests.support.rewriting import add_weights, graph_from, random_array

TEXT = """g (float[n,64] x, float[64,96] w1, float[96] b1, float[96,64] w2) => (float[n,64] y) {
    m = MatMul (x, w1) a = Add (m, b1) r = Relu (a) y = MatMul (r, w2) }"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weight_only")
    weights = {"w1": random_array(64, 96, seed=1), "b1": random_array(96, seed=2), "w2": random_array(96, 64, seed=3)}
    save_model(add_weights(graph_from(TEXT), **weights), place / "m.onnx")
    mixing = random_array(64, 64, seed=4)
    for name, seed, count in (("calibration", 5, 4), ("held_out", 50, 2)):
        (place / name).mkdir()
        for index in range(count):
            rows = random_array(64, 64, seed=seed + index) @ mixing * np.float32(0.1)
            np.savez(place / name / f"{index}.npz", x=rows)
    return place


def sqnr_db(folder: Path, out: Path, method: str) -> float:
    report = exporter.build(
        str(folder / "m.onnx"),
        out,
        samples=str(folder / "held_out"),
        calibration=str(folder / "calibration"),
        targets=("onnxruntime",),
        precisions=("int4-weight-only",),
        weights=f"quantize-weights{{group=32,head=4,method={method}}}",
        speed_seconds=0.0,
        baselines=False,
    )
    (artifact,) = report.artifacts
    assert report.exit_code == 0, artifact.reason
    assert artifact.accuracy is not None
    (output,) = artifact.accuracy.outputs
    return float(output.sqnr_db)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_builds_a_verified_artifact(folder: Path, tmp_path: Path, method: str) -> None:
    assert 10 < sqnr_db(folder, tmp_path / "out", method) < 60, "4-bit weights, and not the float ones"


def test_gptq_uses_the_calibration_samples(folder: Path, tmp_path: Path) -> None:
    assert sqnr_db(folder, tmp_path / "gptq", "gptq") > sqnr_db(folder, tmp_path / "rtn", "rtn") + 1
