"""The ONNX Runtime target: providers without silent fallback, settings on record, blockers, errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from passes.errors import ArtifactRefused, BuildFailed, CannotRun, MissingDependency, UsageError
from targets.base import Artifact, BuildOptions
from targets.manifest import hashes_of, read_manifest, write_manifest
from targets.onnxruntime import session as session_module
from targets.onnxruntime.blockers import cause_from_error
from targets.onnxruntime.session import open_session
from targets.onnxruntime.settings import Settings, session_options, settings_from_text
from targets.onnxruntime.target import OnnxRuntimeTarget
from tests.support.small_models import SMALL_MODELS

TARGET = OnnxRuntimeTarget()
CPU = Settings("cpu", "all", False)


def model_from(text: str, opset: int = 20) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}'))


def build(tmp_path: Path, **changes: object) -> Artifact:
    return TARGET.build(SMALL_MODELS["mlp"].model(), tmp_path, dataclasses.replace(BuildOptions(), **changes))


def test_settings_are_on_record(tmp_path: Path):
    artifact = build(tmp_path, threads=2, settings={"optimization": "extended", "spinning": "on"})
    assert artifact.manifest.settings == {
        "provider": "cpu",
        "execution_provider": "CPUExecutionProvider",
        "optimization": "extended",
        "spinning": "on",
        "operators": "fastest",
        "accuracy_level": "0",
        "intra_op_threads": "2",
        "inter_op_threads": "1",
    }
    assert set(artifact.manifest.files) == {"model.onnx"}  # all weights are below the limit for external data


def test_session_options_say_what_the_settings_say():
    options = session_options(Settings("cuda", "basic", True), threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert session_options(CPU, threads=1).get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_provider_that_is_not_here_is_refused_not_replaced(tmp_path: Path):
    with pytest.raises(CannotRun, match="no CUDAExecutionProvider"):
        build(tmp_path, settings={"provider": "cuda"})
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_for_a_provider_that_is_not_here_cannot_run(tmp_path: Path):
    artifact = build(tmp_path)
    manifest = dataclasses.replace(artifact.manifest, settings={**artifact.manifest.settings, "provider": "cuda"})
    write_manifest(tmp_path, manifest)
    with pytest.raises(CannotRun), TARGET.open(Artifact(tmp_path, manifest)):
        pass


def test_a_session_that_fell_back_is_refused(monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    class FellBack:
        def __init__(self, *arguments: object, **named: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(session_module, "require_provider", lambda settings: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    settings = Settings("cuda", "all", False)
    with pytest.raises(CannotRun, match="CPUExecutionProvider instead of CUDAExecutionProvider"):
        open_session(b"", settings, options=None)
    open_session(b"", CPU, options=None)


def test_nodes_are_asked_about_on_the_chosen_provider_alone(monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime refuses a session that lists the CPU's provider and forbids falling back to it."""
    import onnxruntime

    asked = []

    class Session:
        def __init__(self, source: bytes, options: onnxruntime.SessionOptions, *, providers: list[str]) -> None:
            asked.append((options.get_session_config_entry("session.disable_cpu_ep_fallback"), providers))

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    here = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: here)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    model = model_from("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    assert TARGET.blockers(model, BuildOptions(settings={"provider": "cuda"})) == ()
    assert asked == [("1", ["CUDAExecutionProvider"])]


@pytest.mark.parametrize("given", [{"provider": "cud"}, {"optimization": "full"}, {"spinning": "yes"}, {"thread": "1"}])
def test_unknown_settings_are_refused(given: dict[str, str]):
    with pytest.raises(UsageError):
        settings_from_text(given)


def test_absent_runtime_is_said(monkeypatch: pytest.MonkeyPatch):
    def absent(*arguments: object, **named: object) -> None:
        raise MissingDependency("The onnxruntime target needs 'onnxruntime'.", hint="pip install onnxruntime")

    monkeypatch.setattr("targets.onnxruntime.target.require", absent)
    readiness = TARGET.probe()
    assert (readiness.can_build, readiness.can_run) == (False, False)
    assert readiness.fix == "pip install onnxruntime"
    with pytest.raises(MissingDependency):
        TARGET.blockers(SMALL_MODELS["mlp"].model(), BuildOptions())


def test_bfloat16_is_blocked_with_the_reason():
    (blocker,) = TARGET.blockers(SMALL_MODELS["mlp"].model(), BuildOptions(precision="bf16"))
    assert blocker.operator == "precision"
    assert "bfloat16" in blocker.reason


def test_fp16_says_what_a_cpu_does_with_it(tmp_path: Path):
    model = model_from("g (float16[n, 4] x) => (float16[n, 4] y) { y = MatMul(x, x) }")
    artifact = TARGET.build(model, tmp_path, BuildOptions(precision="fp16"))
    assert "float32 between casts" in artifact.manifest.details["note"]
    assert artifact.manifest.details["executed"]["operators"]["Cast"] >= 2


def test_blockers_name_types_and_opsets_and_nodes_with_their_source_line():
    model = model_from(
        """g (double[n, 3, 4, 4] x, double[2, 3, 1, 1] w, complex64[n] s) => (double[n, 2, 4, 4] y, complex64[n] t) {
            y = Conv(x, w)
            t = Identity(s)
        }""",
        opset=21,
    )
    model.graph[0].name = "in_double"
    model.graph[0].metadata_props["graphwright.source_line"] = "net.py:7"
    blockers = {blocker.node: blocker for blocker in TARGET.blockers(model, BuildOptions())}
    assert set(blockers) == {"s", "t", "in_double"}
    assert blockers["s"].reason == "complex64 cannot be passed here"
    assert blockers["in_double"].operator == "Conv"
    assert blockers["in_double"].source_line == "net.py:7"
    assert "Could not find an implementation for Conv" in blockers["in_double"].reason
    newer = model_from("g (float[n] x) => (float[n] y) { a = Relu(x) y = Neg(a) }", opset=99)
    assert [blocker.operator for blocker in TARGET.blockers(newer, BuildOptions())] == ["opset"]  # not one a node


def test_an_input_without_a_type_is_said_to_have_none():
    model = model_from("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.inputs[0].type = None
    reasons = {blocker.node: blocker.reason for blocker in TARGET.blockers(model, BuildOptions())}
    assert reasons["x"] == "the model does not state its type"


def test_text_goes_in_and_out(tmp_path):
    model = model_from("g (string[n] s, int64 k) => (string[n] t, int64 l) { t = Identity(s) l = Neg(k) }", opset=21)
    assert TARGET.blockers(model, BuildOptions()) == ()
    artifact = TARGET.build(model, tmp_path, BuildOptions())
    assert [spec.dtype for spec in artifact.manifest.inputs] == ["string", "int64"]
    for text in (np.array(["one", "zwei"]), np.array(["one", "zwei"], dtype=object)):
        with TARGET.open(artifact) as run:
            outputs = run({"s": text, "k": np.array(3)})
        assert outputs["t"].dtype.kind == "U"
        assert outputs["t"].tolist() == ["one", "zwei"]
    with TARGET.open(artifact) as run, pytest.raises(UsageError, match="has dtype int64, not string"):
        run({"s": np.array([1]), "k": np.array(3)})


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/graph/model_load_utils.h:46 void "
            "onnxruntime::model_load_utils::ValidateOpsetForDomain(const std::unordered_map<std::string, int>&, "
            "const onnxruntime::logging::Logger&, bool, const string&, int) ONNX Runtime only supports opset 26",
            "ONNX Runtime only supports opset 26",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : /a/b/model.cc:256 unsupported IR", "model.cc:256 unsupported IR"),
    ],
)
def test_the_runtime_s_own_source_is_left_out_of_its_message(said: str, left: str):
    assert cause_from_error(RuntimeError(said)) == left


def test_blockers_look_into_subgraphs_and_functions():
    model = model_from("""g (bool c, double[1, 1, 4, 4] x, double[1, 1, 1, 1] w) => (double[1, 1, 4, 4] y) {
        y = If (c) <
            then_branch = t () => (double[1, 1, 4, 4] a) { a = Conv(x, w) },
            else_branch = e () => (double[1, 1, 4, 4] b) { b = Identity(x) }>
    }""")
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    assert [blocker.operator for blocker in TARGET.blockers(inferred, BuildOptions())] == ["Conv"]


def test_blockers_look_into_functions():
    model = model_from("""g (float[n] x) => (float[n] y) { y = own.f(x) }""")
    model.graph.opset_imports.update({"own": 1, "d": 1})
    inner = ir.Value(name="i")
    odd = ir.node("Odd", [inner], domain="d", name="odd")
    odd.outputs[0].name = "o"
    body = ir.Graph([inner], odd.outputs, nodes=[odd], opset_imports={"d": 1}, name="f")
    function = ir.Function("own", "f", graph=body, attributes=[])
    model.functions[function.identifier()] = function
    assert [blocker.node for blocker in TARGET.blockers(model, BuildOptions())] == ["odd"]


def test_a_node_that_loads_only_with_its_neighbours_is_no_blocker():
    model = model_from("""g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) {
        big = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
        y = Upsample(x, big)
    }""", opset=9)  # fmt: skip
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    assert TARGET.blockers(inferred, BuildOptions()) == ()


def test_a_graph_that_does_not_load_fails_with_the_runtimes_cause(tmp_path: Path):
    model = model_from("g (float[2, 3] x, float[4, 5] w) => (float[2, 5] y) { y = MatMul(x, w) }")
    with pytest.raises(BuildFailed, match="MatMul") as failed:
        TARGET.build(model, tmp_path, BuildOptions())
    assert str(tmp_path) not in failed.value.message


def test_a_size_that_the_graph_does_not_take_is_a_usage_error(tmp_path: Path):
    model = model_from("""g (float[n, m] x) => (float[k, 4] y) {
        shape = Constant <value = int64[2] {3, 4}> ()
        y = Reshape(x, shape)
    }""")
    artifact = TARGET.build(model, tmp_path, BuildOptions())
    with TARGET.open(artifact) as runner:
        assert runner({"x": np.ones((2, 6), np.float32)})["y"].shape == (3, 4)
        with pytest.raises(UsageError, match="does not run the model on these inputs"):
            runner({"x": np.ones((2, 7), np.float32)})


def test_scalars_and_strided_arrays_are_taken_as_they_are(tmp_path: Path):
    model = model_from("g (float s, float[n, 2] x) => (float[n, 2] y) { y = Mul(x, s) }")
    x = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::-3]
    with TARGET.open(TARGET.build(model, tmp_path, BuildOptions())) as runner:
        for scalar in (np.float32(2), np.array(2, np.float32)):
            np.testing.assert_array_equal(runner({"s": scalar, "x": x})["y"], 2 * x)


def test_another_targets_artifact_is_refused(tmp_path: Path):
    artifact = build(tmp_path)
    write_manifest(tmp_path, dataclasses.replace(artifact.manifest, target="elsewhere"))
    with pytest.raises(ArtifactRefused, match="'elsewhere'"), TARGET.open(artifact):
        pass


@pytest.mark.parametrize("unlisted", ["model.onnx", "model.onnx.data"])
def test_a_file_that_the_manifest_does_not_list_is_not_loaded(tmp_path: Path, unlisted: str):
    artifact = build(tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(b"data")
    files = hashes_of(tmp_path, {"model.onnx", "model.onnx.data"} - {unlisted})
    write_manifest(tmp_path, dataclasses.replace(artifact.manifest, files=files))
    with pytest.raises(ArtifactRefused, match=f"no hash of {unlisted},"), TARGET.open(artifact):
        pass


def test_refusals_name_no_folder(tmp_path: Path):
    """They reach a report, and the folder is then the build's scratch."""
    artifact = build(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    unreadable = dataclasses.replace(artifact.manifest, files=hashes_of(tmp_path, ["model.onnx"]))
    for manifest in (
        unreadable,
        dataclasses.replace(unreadable, target="elsewhere"),
        dataclasses.replace(unreadable, settings={}),
    ):
        write_manifest(tmp_path, manifest)
        with pytest.raises(ArtifactRefused) as refused, TARGET.open(artifact):
            pass
        assert str(tmp_path) not in refused.value.message


def test_a_manifest_without_settings_is_refused(tmp_path: Path):
    artifact = build(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text())
    data["settings"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactRefused, match="settings"), TARGET.open(artifact):
        pass


def test_a_graph_that_this_runtime_does_not_load_is_refused_with_the_version_that_built_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    artifact = build(tmp_path)

    def refuse(*arguments: object, **named: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : /a/b/model.cc:256 unsupported IR version")

    monkeypatch.setattr("targets.onnxruntime.runner.open_session", refuse)
    with pytest.raises(ArtifactRefused, match=r": model\.cc:256 unsupported IR") as refused, TARGET.open(artifact):
        pass
    assert read_manifest(tmp_path).versions["onnxruntime"] in refused.value.hint


def test_kernels_are_asked_of_the_installed_runtime():
    capabilities = TARGET.capabilities(BuildOptions())
    assert capabilities.has_kernel("Attention")
    assert capabilities.has_kernel("FusedMatMul", domain="com.microsoft")
    assert not capabilities.has_kernel("GroupNormalization")
    assert not capabilities.has_kernel("NoSuchOperator")


def test_a_build_past_its_time_limit_fails_and_leaves_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildFailed, match="time limit"):
        build(tmp_path / "out", time_limit_s=0.01)
    assert list(scratch.iterdir()) == []


def test_a_provider_that_is_not_here_has_unknown_kernels():
    assert TARGET.capabilities(BuildOptions(settings={"provider": "cuda"})).kernels is None


def test_kernels_are_unknown_where_the_runtime_hides_them(monkeypatch: pytest.MonkeyPatch):
    from targets.onnxruntime.capabilities import kernels_of

    monkeypatch.setattr("onnxruntime.capi.onnxruntime_pybind11_state", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.capi.onnxruntime_pybind11_state", SimpleNamespace())
    assert kernels_of.__wrapped__("CPUExecutionProvider") is None
