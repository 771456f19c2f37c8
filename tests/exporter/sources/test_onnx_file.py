"""ONNX files as sources: the reference is the graph as it stands, and unsafe or broken files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from exporter.sources import open_source
from passes.errors import BadModel, ExitCode, ModelBlocked, UsageError
from targets.base import TensorSpec

TEXT = """
<ir_version: 8, opset_import: ["" : {opset}]>
g (float[n, 3] x) => (float[n, 3] y)
<float[3] w = {{1.0, 2.0, 3.0}}>
{{
  h = Add (x, w)
  y = Relu (h)
}}
"""


def saved(folder: Path, *, opset: int = 17, location: str | None = None) -> Path:
    model = onnx.parser.parse_model(TEXT.format(opset=opset))
    path = folder / "model.onnx"
    if location is not None:
        tensor = model.graph.initializer[0]
        raw = onnx.numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        (folder / Path(location).name).write_bytes(raw)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
def test_any_opset_from_9_runs(tmp_path: Path, opset: int) -> None:
    source = open_source(str(saved(tmp_path, opset=opset)))
    assert source.inputs() == (TensorSpec("x", "float32", ("n", 3)),)
    assert source.example() is None
    assert list(source.baselines()) == []
    assert source.framework.startswith("onnxruntime ")
    with source.reference() as reference:
        assert reference.outputs == (TensorSpec("y", "float32", ("n", 3)),)
        got = reference({"x": np.array([[-5.0, -1.0, 1.0]], np.float32)})
    np.testing.assert_array_equal(got["y"], [[0.0, 1.0, 4.0]])


def test_missing_value_types_are_inferred(tmp_path: Path) -> None:
    traced = open_source(str(saved(tmp_path))).trace(tmp_path)
    assert [attempt.succeeded for attempt in traced.attempts] == [True]
    [add, _] = list(traced.model.graph)
    assert f"{add.outputs[0].dtype}{add.outputs[0].shape}" == "FLOAT[n,3]"


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    path = saved(tmp_path, location="weights.bin")
    before = open_source(str(path)).sha256()
    assert before == open_source(str(path)).sha256()
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert open_source(str(path)).sha256() != before


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    path = saved(tmp_path / "inner", location="../secret.bin")
    with pytest.raises(BadModel, match="outside its folder") as caught:
        open_source(str(path))
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(("content", "said"), [(None, "no model file"), (b"", "not a"), (b"\x08\x08garbage", "not a")])
def test_broken_files(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadModel, match=said):
        open_source(str(path))


def test_a_truncated_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadModel):
        open_source(str(path))


def test_the_reference_checks_its_inputs(tmp_path: Path) -> None:
    with open_source(str(saved(tmp_path))).reference() as reference:
        with pytest.raises(UsageError, match="has no input 'x'"):
            reference({"X": np.ones((1, 3), np.float32)})
        with pytest.raises(UsageError, match=r"shape \[1, 4\]"):
            reference({"x": np.ones((1, 4), np.float32)})


def test_a_graph_that_the_runtime_refuses(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = onnx.load(path)
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("reluctant", 1))
    path.write_bytes(model.SerializeToString())
    source = open_source(str(path))
    with pytest.raises(BadModel, match="reluctant"), source.reference():
        pass


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("model.py", "no function in it"),
        ("weights.pth", "weights without the code"),
        (".", "is a folder"),
        ("model.tflite", "no form of source"),
    ],
)
def test_other_forms(location: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_source(location)
    assert "path/to/file.py:function" in caught.value.hint


def operators_file(folder: Path) -> Path:
    text = """<ir_version: 10, opset_import: ["" : 20, "my.domain" : 1, "own" : 1, "com.microsoft" : 1]>
    g (float[n, 3] x, bool flag) => (float[n, 3] y) {
        [first] a = my.domain.Swish (x)
        b = own.double (a)
        c = com.microsoft.QuickGelu (b)
        d = If (flag) <
            then_branch = yes () => (float[n, 3] t) { [inner] t = Rellu (c) },
            else_branch = no () => (float[n, 3] e) { [other] e = my.domain.Relu (c) }
        >
        y = Relu (d)
    }
    <domain: "own", opset_import: ["" : 20]> double (v) => (w) { w = Add (v, v) }"""
    path = folder / "custom.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def test_every_unknown_operator_is_listed_with_its_node(tmp_path: Path) -> None:
    with pytest.raises(ModelBlocked) as caught:
        open_source(str(operators_file(tmp_path)))
    assert caught.value.exit_code is ExitCode.BLOCKED
    assert [(blocker.operator, blocker.node) for blocker in caught.value.blockers] == [
        ("my.domain::Swish", "first"),
        ("Rellu", "inner"),
        ("my.domain::Relu", "other"),
    ]
    _, misspelt, misplaced = (blocker.reason for blocker in caught.value.blockers)
    assert "meant Relu?" in misspelt
    assert "in the domain ai.onnx only" in misplaced


def test_an_input_without_a_rank_takes_that_of_the_samples(tmp_path: Path) -> None:
    model = onnx.load(saved(tmp_path))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "rankless.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadModel, match="does not state the rank of the input 'x'"):
        open_source(str(path))
    feeds = {"x": np.ones((2, 3), np.float32)}
    source = open_source(str(path), samples=[feeds])
    assert source.inputs() == (TensorSpec("x", "float32", ("x_0", "x_1")),)
    with source.reference() as reference:
        np.testing.assert_array_equal(reference(feeds)["y"], [[2.0, 3.0, 4.0]] * 2)
    [value] = source.trace(tmp_path).model.graph.inputs
    assert str(value.shape) == "[x_0,x_1]"
