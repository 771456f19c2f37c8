"""optimize as a function: paths and targets as text, and what checking says."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from exporter.optimization import Debugging, optimize
from passes.errors import BadModel, UsageError
from tests.support.onnx_sources import classifier
from tests.support.rewriting import graph_from


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("models") / "model.onnx")


def test_paths_and_the_target_may_be_text(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = optimize(str(model), str(out), target="onnxruntime")
    assert out.is_file()
    assert report.nodes_after < report.nodes_before


def test_a_path_that_is_no_file_is_said(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(BadModel, match=r"a\.onnx is a folder"):
        optimize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with pytest.raises(UsageError, match=r"a\.onnx is a folder"):
        optimize(model, tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="File name too long"):
        optimize(model, tmp_path / f"{'n' * 260}.onnx")


def test_what_the_input_has_wrong_is_reported(tmp_path: Path) -> None:
    graph = graph_from("g (float[N,4] x) => (float[N,4] y) { a = Identity (x) y = Relu (a) }")
    graph.graph.outputs[0].shape = None
    ir.save(graph, tmp_path / "in.onnx")
    report = optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", debugging=Debugging(check=True))
    assert report.check is not None
    assert "'shape'" in report.check.invalid


@pytest.mark.parametrize("name", ["convert-fp16", "convert-fp16,eliminate-dead-code"])
def test_checking_lets_a_pass_lower_precision(model: Path, tmp_path: Path, name: str) -> None:
    report = optimize(model, tmp_path / "out.onnx", pipeline=name, debugging=Debugging(check=True))
    assert report.results[0].applied


def test_checking_a_graph_that_does_not_run_blames_the_file(tmp_path: Path) -> None:
    graph = graph_from("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    graph.graph.node(0).op_type, graph.graph.node(0).domain = "Own", "my.domain"
    graph.opset_imports["my.domain"] = 1
    ir.save(graph, tmp_path / "in.onnx")
    with pytest.raises(BadModel, match="does not run before any pass"):
        optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", debugging=Debugging(check=True))
