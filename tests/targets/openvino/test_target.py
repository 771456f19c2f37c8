"""The OpenVINO target: precision always explicit, exact names, blockers, no network, errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from passes.capabilities import WEIGHT_ONLY
from passes.errors import ArtifactRefused, BuildFailed, CannotRun, MissingDependency, UsageError
from targets.base import Artifact, BuildOptions
from targets.manifest import hashes_of, write_manifest
from targets.openvino.capabilities import optimizations_of
from targets.openvino.compiled import compile_ir
from targets.openvino.conversion import cause_from_error, name_ports, verify_ports
from targets.openvino.runtime import load_openvino
from targets.openvino.settings import Settings, properties_from_settings, settings_from_text
from targets.openvino.target import OpenVinoTarget
from tests.support.small_models import SMALL_MODELS, sqnr_db, unoptimized

TARGET = OpenVinoTarget()
HAS_BF16 = "BF16" in optimizations_of("CPU")
HAS_F16 = "FP16" in optimizations_of("CPU")


def model_from(text: str, opset: int = 20) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}'))


def build(tmp_path: Path, **changes: object) -> Artifact:
    return TARGET.build(SMALL_MODELS["mlp"].model(), tmp_path, dataclasses.replace(BuildOptions(), **changes))


def test_all_that_changes_results_is_on_record(tmp_path: Path):
    artifact = build(tmp_path, threads=2)
    assert artifact.manifest.settings == {
        "device": "CPU",
        "precision_hint": "f32",
        "inference_precision_hint": "f32",
        "execution_mode_hint": "ACCURACY",
        "performance_hint": "LATENCY",
        "num_streams": "1",
        "inference_num_threads": "2",
        "dynamic_quantization_group_size": "0",
        "kv_cache_precision": "f32",
        "cpu_denormals_optimization": "NO",
        "enable_cpu_pinning": "NO",
    }
    assert set(artifact.manifest.files) == {"openvino.xml", "openvino.bin"}


@pytest.mark.parametrize(
    ("precision", "given", "hint"),
    [("fp32", "auto", "f32"), ("int8", "auto", "f32"), ("bf16", "auto", "bf16"), ("fp16", "auto", "f16"),
     ("int8", "bf16", "bf16")],
)  # fmt: skip
def test_the_hint_follows_the_precision_unless_given(precision: str, given: str, hint: str):
    settings = settings_from_text({"precision_hint": given}, precision=precision)
    assert settings.hint == hint
    properties = properties_from_settings(settings, threads=1)
    assert properties["INFERENCE_PRECISION_HINT"] == hint
    assert properties["EXECUTION_MODE_HINT"] == ("ACCURACY" if hint == "f32" else "PERFORMANCE")


def test_the_compiled_model_has_every_property(tmp_path: Path):
    build(tmp_path)
    settings = Settings("CPU", "f32")
    compiled = compile_ir(tmp_path / "openvino.xml", settings, threads=1)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == load_openvino().Type.f32
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_fp32_is_not_the_devices_own_default(tmp_path: Path):
    """The plug-in's default on a CPU with bf16 is bf16; the artifact's results must not show it."""
    size = 256
    weights = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    model = model_from(
        f"g (float[n, {size}] x, float[{size}, {size}] w) => (float[n, {size}] y) {{ y = MatMul(x, w) }}"
    )
    feeds = {"x": np.random.default_rng(1).standard_normal((4, size)).astype(np.float32), "w": weights}
    with TARGET.open(TARGET.build(model, tmp_path, BuildOptions())) as runner:
        assert sqnr_db(runner(feeds)["y"], feeds["x"].astype(np.float64) @ weights) > 100


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16: the blocker test below covers it")
def test_bf16_is_taken_where_asked_for(tmp_path: Path):
    artifact = build(tmp_path, precision="bf16")
    assert artifact.manifest.settings["precision_hint"] == "bf16"
    feeds = SMALL_MODELS["mlp"].feeds(4, 1)
    with TARGET.open(artifact) as runner:
        assert 20 < sqnr_db(runner(feeds)["y"], unoptimized(SMALL_MODELS["mlp"].model(), feeds)["y"]) < 80


@pytest.mark.skipif(HAS_F16, reason="this CPU has fp16")
def test_arithmetic_that_the_device_lacks_is_blocked_and_refused(tmp_path: Path):
    """A CPU without fp16 would compute in bf16 and say nothing."""
    model = SMALL_MODELS["mlp"].model()
    (blocker,) = TARGET.blockers(model, BuildOptions(precision="fp16"))
    assert (blocker.operator, blocker.node) == ("precision", "f16")
    with pytest.raises(CannotRun, match="instead of f16"):
        TARGET.build(model, tmp_path, BuildOptions(precision="fp16"))


def test_precision_blockers_are_of_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("targets.openvino.blockers.optimizations_of", lambda device: ("FP32", "INT8"))
    for precision, blocked in (("fp32", 0), ("int8", 0), ("bf16", 1), ("fp16", 1)):
        assert len(TARGET.blockers(SMALL_MODELS["mlp"].model(), BuildOptions(precision=precision))) == blocked


@pytest.mark.parametrize("device", ["", "cpu", "../CPU", "GPU/0", "GPU.", "GPU.a", "CPU\n", "AUTO", "HETERO:GPU,CPU"])
def test_a_device_that_is_no_single_device_is_refused(device: str):
    with pytest.raises(UsageError, match="The setting device"):
        TARGET.check(BuildOptions(settings={"device": device}))


@pytest.mark.parametrize("device", ["CPU", "GPU", "NPU", "GPU.1"])
def test_single_devices_are_taken(device: str):
    TARGET.check(BuildOptions(settings={"device": device}))


def test_a_device_that_is_not_here_is_refused_not_replaced(tmp_path: Path):
    with pytest.raises(CannotRun, match="no device 'NPU'"):
        build(tmp_path, settings={"device": "NPU"})
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_for_another_device_cannot_run(tmp_path: Path):
    artifact = build(tmp_path)
    manifest = dataclasses.replace(artifact.manifest, settings={**artifact.manifest.settings, "device": "GPU.7"})
    write_manifest(tmp_path, manifest)
    with pytest.raises(CannotRun, match=r"GPU\.7"), TARGET.open(Artifact(tmp_path, manifest)):
        pass


@pytest.mark.parametrize("given", [{"devise": "CPU"}, {"precision_hint": "f8"}])
def test_unknown_settings_are_refused(given: dict[str, str]):
    with pytest.raises(UsageError):
        TARGET.check(BuildOptions(settings=given))


def test_importing_it_sends_nothing():
    """openvino reports its import to an analytics server unless its telemetry package is missing."""
    code = (
        "import socket, sys\n"
        "def refuse(*arguments, **named): raise SystemExit(f'looked up {arguments[0]}')\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        "from targets.openvino.runtime import load_openvino\n"
        "load_openvino().Core()\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_absent_runtime_is_said(monkeypatch: pytest.MonkeyPatch):
    def absent() -> None:
        raise MissingDependency("The openvino target needs 'openvino'.", hint="pip install 'graphwright[openvino]'")

    monkeypatch.setattr("targets.openvino.target.load_openvino", absent)
    monkeypatch.setattr("targets.openvino.capabilities.the_core", absent)
    readiness = TARGET.probe()
    assert (readiness.can_build, readiness.can_run) == (False, False)
    assert "graphwright[openvino]" in readiness.fix
    assert TARGET.capabilities(BuildOptions()).precisions == {"fp32", "int8", *WEIGHT_ONLY}
    with pytest.raises(MissingDependency):
        TARGET.build(SMALL_MODELS["mlp"].model(), Path("nowhere"), BuildOptions())


def test_a_runtime_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise RuntimeError("no plug-ins")

    monkeypatch.setattr("targets.openvino.target.the_core", broken)
    readiness = TARGET.probe()
    assert not readiness.can_build
    assert "no plug-ins" in readiness.reason


def test_odd_names_and_shared_outputs_are_kept(tmp_path: Path):
    x = ir.Value(name="in/put.1:0", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 2]))
    unused = ir.Value(name="unused", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    relu = ir.node("Relu", [x], name="r")
    same, passed = ir.node("Identity", relu.outputs, name="i"), ir.node("Identity", [x], name="p")
    for node, name in ((relu, 'a<b>&"c"'), (same, "same,thing"), (passed, "passed")):
        node.outputs[0].name = name
        node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    outputs = [same.outputs[0], passed.outputs[0], relu.outputs[0]]
    graph = ir.Graph([unused, x], outputs, nodes=[relu, same, passed], opset_imports={"": 20}, name="g")
    artifact = TARGET.build(ir.Model(graph, ir_version=10), tmp_path, BuildOptions())
    feeds = {"in/put.1:0": np.array([[-1, 2]], np.float32), "unused": np.array(3, np.int64)}
    with TARGET.open(artifact) as runner:
        found = runner(feeds)
    assert list(found) == ["same,thing", "passed", 'a<b>&"c"']
    np.testing.assert_array_equal(found["same,thing"], [[0, 2]])
    np.testing.assert_array_equal(found["passed"], [[-1, 2]])
    np.testing.assert_array_equal(found['a<b>&"c"'], [[0, 2]])


class Port:
    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def get_names(self) -> set[str]:
        return self.names


def test_ports_in_another_order_or_number_are_refused():
    verify_ports([Port("a", "alias"), Port("b")], ["a", "b"])
    for ports in ([Port("b"), Port("a")], [Port("a")], [Port("a"), Port("b"), Port("c")]):
        with pytest.raises(BuildFailed):
            verify_ports(ports, ["a", "b"])

    class Graph:
        inputs = (Port("a"),)
        outputs = ()

    with pytest.raises(BuildFailed, match="1 inputs instead of 2"):
        name_ports(Graph(), ["a", "b"], [])


@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False]),
        np.array([1, -2], np.int8),
        np.array([1, 200], np.uint8),
        np.array([1, -70000], np.int32),
        np.array([1.5, -2], np.float16),
        np.array([1.5, -2], ml_dtypes.bfloat16),
        np.array([1.5, -2], np.float64),
        np.arange(6, dtype=np.float32)[::-2],
        np.zeros(0, np.float32),
    ],
    ids=lambda array: f"{array.dtype}-{array.size}",
)
def test_every_type_comes_back_as_it_went(array: np.ndarray, tmp_path: Path):
    dtype = ir.DataType.from_numpy(array.dtype)
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(["n"]))
    node = ir.node("Identity", [x])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, x.shape
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="g"), ir_version=10)
    with TARGET.open(TARGET.build(model, tmp_path, BuildOptions())) as runner:
        found = runner({"x": array})["y"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_scalars_are_taken_as_they_are(tmp_path: Path):
    model = model_from("g (float s, float[n, 2] x) => (float[n, 2] y) { y = Mul(x, s) }")
    x = np.ones((3, 2), np.float32)
    with TARGET.open(TARGET.build(model, tmp_path, BuildOptions())) as runner:
        for scalar in (np.float32(2), np.array(2, np.float32)):
            np.testing.assert_array_equal(runner({"s": scalar, "x": x})["y"], 2 * x)


def test_integers_that_would_be_cut_off_are_refused(tmp_path: Path):
    model = model_from("g (int64[n] x) => (int64[n] y) { y = Identity(x) }")
    with TARGET.open(TARGET.build(model, tmp_path, BuildOptions())) as runner:
        assert runner({"x": np.array([2**31 - 1, -(2**31)])})["y"].tolist() == [2**31 - 1, -(2**31)]
        with pytest.raises(UsageError, match="1099511627776"):
            runner({"x": np.array([2**40])})


def test_blockers_come_with_names_and_source_lines():
    model = model_from("g (float[n, 4] x) => (float[n, 4] y) { a = Relu(x) y = Relu(a) }")
    for node, name in zip(model.graph, ("one", "two"), strict=True):
        node.name, node.op_type, node.domain = name, "Strange", "d"
        node.metadata_props["graphwright.source_line"] = f"net.py:{name}"
    model.graph.opset_imports["d"] = 1
    blockers = TARGET.blockers(model, BuildOptions())
    assert {(blocker.node, blocker.source_line) for blocker in blockers} == {
        ("one", "net.py:one"),
        ("two", "net.py:two"),
    }


def test_blockers_inside_a_subgraph_are_found():
    model = model_from("""g (bool c, float[n] x) => (float[n] y) {
        y = If (c) <
            then_branch = t () => (float[n] a) { a = Relu(x) },
            else_branch = e () => (float[n] b) { b = Identity(x) }>
    }""")
    inner = next(node for node in model.graph.all_nodes() if node.op_type == "Relu")
    inner.op_type, inner.domain, inner.name = "Strange", "d", "inner"
    model.graph.opset_imports["d"] = 1
    assert [blocker.node for blocker in TARGET.blockers(model, BuildOptions())] == ["inner"]


def test_types_and_opsets_that_do_not_fit_are_blockers():
    model = model_from("g (string[n] s, float[n] x) => (string[n] t, float[n] y) { t = Identity(s) y = Relu(x) }")
    model.graph.opset_imports[""] = 99
    blockers = {blocker.operator for blocker in TARGET.blockers(model, BuildOptions())}
    assert {"input", "output", "opset"} <= blockers


def test_a_type_that_the_front_end_stops_at_is_blocked_without_a_path_of_ours():
    model = model_from("g (complex64[2] x) => (complex64[2] y) { y = Identity (x) }")
    blockers = TARGET.blockers(model, BuildOptions())
    assert ("x", "complex64 cannot be passed here") in {(blocker.node, blocker.reason) for blocker in blockers}
    assert not any("worker.py" in blocker.reason for blocker in blockers)


def test_a_graph_that_is_not_converted_fails_with_the_cause(tmp_path: Path):
    model = model_from("g (float[2, 3] x, float[4, 5] w) => (float[2, 5] y) { y = MatMul(x, w) }")
    with pytest.raises(BuildFailed, match="OpenVINO does not convert") as failed:
        TARGET.build(model, tmp_path, BuildOptions())
    assert "model.onnx" not in failed.value.message  # nor its scratch folder
    assert list(tmp_path.iterdir()) == []


def test_a_build_past_its_time_limit_fails_and_leaves_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildFailed, match="time limit"):
        build(tmp_path / "out", time_limit_s=0.01)
    assert list(scratch.iterdir()) == []


def test_another_targets_artifact_is_refused(tmp_path: Path):
    artifact = build(tmp_path)
    write_manifest(tmp_path, dataclasses.replace(artifact.manifest, target="elsewhere"))
    with pytest.raises(ArtifactRefused, match="'elsewhere'"), TARGET.open(artifact):
        pass


@pytest.mark.parametrize("unlisted", ["openvino.xml", "openvino.bin"])
def test_a_file_that_the_manifest_does_not_list_is_not_loaded(tmp_path: Path, unlisted: str):
    artifact = build(tmp_path)
    files = {name: digest for name, digest in artifact.manifest.files.items() if name != unlisted}
    write_manifest(tmp_path, dataclasses.replace(artifact.manifest, files=files))
    with pytest.raises(ArtifactRefused, match=f"no hash of {unlisted},"), TARGET.open(artifact):
        pass


def test_refusals_name_no_folder(tmp_path: Path):
    """They reach a report, and the folder is then the build's scratch."""
    artifact = build(tmp_path)
    (tmp_path / "openvino.xml").write_bytes(b"no graph")
    unreadable = dataclasses.replace(artifact.manifest, files=hashes_of(tmp_path, artifact.manifest.files))
    for manifest in (
        unreadable,
        dataclasses.replace(unreadable, target="elsewhere"),
        dataclasses.replace(unreadable, settings={}),
    ):
        write_manifest(tmp_path, manifest)
        with pytest.raises(ArtifactRefused) as refused, TARGET.open(artifact):
            pass
        assert str(tmp_path) not in refused.value.message


def test_causes_leave_out_the_runtimes_source_lines():
    error = RuntimeError("Exception from src/core.cpp:84:\nCheck 'false' failed at src/x.cpp:1:\n\nNo rule: Det-23\n")
    assert cause_from_error(error) == "No rule: Det-23"
