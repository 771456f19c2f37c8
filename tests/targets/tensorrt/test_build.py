"""Engines for SM89, really built by TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.errors import ArtifactRefused, BuildFailed, CannotRun, ModelBlocked, UsageError
from targets.base import Artifact, BuildOptions, DimRange, Precision
from targets.isolation import run_isolated
from targets.manifest import read_manifest
from targets.tensorrt import artifact as artifact_module
from targets.tensorrt import backend, loading
from targets.tensorrt import target as target_module
from targets.tensorrt.artifact import lowered_onnx
from targets.tensorrt.backend import Package
from targets.tensorrt.device import Gpu
from targets.tensorrt.target import TensorRtTarget

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no engine can be built"
)

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
DIMS = {"N": DimRange(1, 4, 8), "S": DimRange(1, 16, 32)}
SETTINGS = {"sm": "89"}

Build = Callable[..., Artifact]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def run(text: str, *, name: str = "a", settings: dict[str, str] | None = None, **fields: object) -> Artifact:
        out = tmp_path / name
        out.mkdir()
        options = BuildOptions(settings=SETTINGS if settings is None else settings, **{"dims": DIMS, **fields})  # type: ignore[arg-type]
        return TensorRtTarget().build(ir.from_onnx_text(text), out, options)

    return run


def weights(name: str, shape: tuple[int, ...], *, kind: str = "float") -> str:
    """Return an initializer in ONNX text, with values that differ."""
    count = int(np.prod(shape))
    values = [(index % 7 - 3) if kind == "int8" else round((index % 7 - 3) / 7, 3) for index in range(count)]
    return f"{kind}[{','.join(map(str, shape))}] {name} = {{{', '.join(map(str, values))}}}"


CNN = f"""{HEAD} g (float[N,3,16,16] x) => (float[N,10] y)
<{weights("w", (8, 3, 3, 3))}, {weights("b", (8,))}, {weights("f", (8, 10))}> {{
    c = Conv<pads = [1,1,1,1]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    v = Flatten(p)
    y = MatMul(v, f)
}}"""


def transformer_layer(kind: str = "float") -> str:
    """Return masked self-attention over dynamic [N, S, 16]: 2 heads, a residual and LayerNormalization."""
    names = ("wq", "wk", "wv", "wo")
    matrices = ", ".join(weights(f"{name}f", (16, 16)) for name in names)
    number = {"float": 1, "float16": 10, "bfloat16": 16}[kind]
    casts = "\n".join(f"{name} = Cast<to = {number}>({name}f)" for name in (*names, "g", "eight", "low"))
    return f"""{HEAD} g ({kind}[N,S,16] x, int64[N,S] mask) => ({kind}[N,S,16] y)
    <{matrices}, {weights("gf", (16,))}, float eightf = {{2.8}}, float lowf = {{-10000.0}},
     int64[4] heads = {{0, 0, 2, 8}}, int64[3] merged = {{0, 0, 16}}, int64[2] middle = {{1, 2}}> {{
        {casts}
        q3 = MatMul(x, wq)  k3 = MatMul(x, wk)  v3 = MatMul(x, wv)
        q4 = Reshape(q3, heads)  k4 = Reshape(k3, heads)  v4 = Reshape(v3, heads)
        q = Transpose<perm = [0,2,1,3]>(q4)  k = Transpose<perm = [0,2,3,1]>(k4)  v = Transpose<perm = [0,2,1,3]>(v4)
        s = MatMul(q, k)
        t = Div(s, eight)
        keep = Cast<to = 9>(mask)
        drop = Not(keep)
        drop4 = Unsqueeze(drop, middle)
        m = Where(drop4, low, t)
        p = Softmax<axis = -1>(m)
        o4 = MatMul(p, v)
        o3 = Transpose<perm = [0,2,1,3]>(o4)
        o = Reshape(o3, merged)
        w = MatMul(o, wo)
        a = Add(x, w)
        y = LayerNormalization<axis = -1>(a, g)
    }}"""


INT8_CNN = f"""{HEAD} g (float[N,3,16,16] x) => (float[N,8,16,16] y)
<{weights("w", (8, 3, 3, 3), kind="int8")}, {weights("b", (8,))}, float s = {{0.02}}, int8 z = {{0}},
 float[8] ws = {{0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}}, int8[8] wz = {{0, 0, 0, 0, 0, 0, 0, 0}}> {{
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear<axis = 0>(w, ws, wz)
    c = Conv<pads = [1,1,1,1]>(xd, wd, b)
    y = Relu(c)
}}"""

INT8_FEED_FORWARD = f"""{HEAD} g (float[N,S,16] x) => (float[N,S,16] y)
<{weights("u", (16, 32), kind="int8")}, {weights("d", (32, 16), kind="int8")}, {weights("b", (32,))},
 float s = {{0.02}}, float t = {{0.05}}, float us = {{0.1}}, float ds = {{0.1}}, int8 z = {{0}}> {{
    xq = QuantizeLinear(x, s, z)  xf = DequantizeLinear(xq, s, z)
    xt = Transpose<perm = [1,0,2]>(xf)
    ud = DequantizeLinear(u, us)
    [up] h = MatMul(xt, ud)
    hb = Add(h, b)
    a = Relu(hb)
    aq = QuantizeLinear(a, t, z)  ad = DequantizeLinear(aq, t, z)
    dd = DequantizeLinear(d, ds)
    [down] o = MatMul(ad, dd)
    ot = Transpose<perm = [1,0,2]>(o)
    y = Add(x, ot)
}}"""

NETWORKS: dict[str, tuple[str, Precision, dict[str, dict[str, int]]]] = {
    "cnn-fp32": (CNN, "fp32", {"Conv": {"fp32": 1}, "MatMul": {"fp32": 1}}),
    "transformer-fp32": (transformer_layer(), "fp32", {"MatMul": {"fp32": 6}}),
    "transformer-fp16": (transformer_layer("float16"), "fp16", {"MatMul": {"fp16": 6}}),
    "transformer-bf16": (transformer_layer("bfloat16"), "bf16", {"MatMul": {"bf16": 6}}),
    "cnn-int8": (INT8_CNN, "int8", {"Conv": {"int8": 1}}),
    "feed-forward-int8": (INT8_FEED_FORWARD, "int8", {"MatMul": {"int8": 2}}),
}


@needs_rtx
@pytest.mark.parametrize("network", NETWORKS)
def test_an_engine_is_built(build: Build, network: str) -> None:
    text, precision, planned = NETWORKS[network]
    artifact = build(text, precision=precision)
    manifest = read_manifest(artifact.path)
    engine = manifest.details["engines"]["89"]
    assert engine["bytes"] == (artifact.path / "engine.sm89.plan").stat().st_size > 10_000
    assert manifest.details["planned_precision"]["by_operator"] == planned
    assert {"engine.sm89.plan", "model.onnx"} <= set(manifest.files)
    assert not manifest.runs_here
    assert manifest.device == "SM89"
    assert manifest.versions["tensorrt_rtx"] == engine["version"]
    assert manifest.settings | {"sm": "89", "backend": "rtx", "tf32": "false"} == manifest.settings


@needs_rtx
def test_int8_is_in_the_network_that_tensorrt_holds(build: Build) -> None:
    types = build(INT8_FEED_FORWARD, precision="int8").manifest.details["engines"]["89"]["tensor_types"]
    assert types["INT8"] >= 4  # two quantized activations, two quantized weights


@needs_rtx
def test_two_builds_are_byte_identical(build: Build) -> None:
    first, second = build(CNN, name="first"), build(CNN, name="second")
    names = sorted(path.name for path in first.path.iterdir())
    assert names == sorted(path.name for path in second.path.iterdir())
    for name in names:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


@needs_rtx
def test_one_engine_each_for_several_architectures(build: Build) -> None:
    artifact = build(
        transformer_layer("float16"), settings={"sm": "75+120", "workspace": "64MiB", "optimization_level": "1"}
    )
    assert {"engine.sm75.plan", "engine.sm120.plan"} <= set(artifact.manifest.files)
    assert artifact.manifest.settings["workspace_bytes"] == str(64 << 20)
    assert artifact.manifest.settings["optimization_level"] == "1"


def test_without_architecture_and_gpu_the_onnx_is_made_and_says_so(build: Build) -> None:
    artifact = build(CNN, settings={}, dims={})
    assert lowered_onnx(artifact).is_file()
    assert artifact.manifest.details["engines"] == {}
    assert "no compute capability is named" in artifact.manifest.details["no_engine_because"]
    with pytest.raises(CannotRun, match="no engine"), TensorRtTarget().open(artifact):
        pass


def test_an_engine_that_the_manifest_has_no_hash_of_is_not_loaded(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_gpu", lambda: Gpu("L4", 89))
    artifact = build(CNN, settings={}, dims={})
    (artifact.path / "other.plan").write_bytes(b"plan")
    artifact.manifest.details["engines"] = {"89": {"file": "other.plan", "version": "1"}}
    manifest = replace(artifact.manifest, settings=artifact.manifest.settings | {"backend": "rtx"})
    with pytest.raises(ArtifactRefused, match=r"no hash of other\.plan"):
        TensorRtTarget().open(Artifact(artifact.path, manifest)).__enter__()
    with pytest.raises(ArtifactRefused, match="backend 'none' is not known"):
        TensorRtTarget().open(artifact).__enter__()


@pytest.mark.parametrize(
    "engines", [None, [], {"89": None}, {"89": {}}, {"new": {"file": "e", "version": "1"}}, {"89": {"file": 1}}]
)
def test_a_manifest_that_garbles_its_engines_is_refused(build: Build, engines: object) -> None:
    artifact = build(CNN, settings={}, dims={})
    artifact.manifest.details["engines"] = engines
    with pytest.raises(ArtifactRefused, match="does not say what its engines are"):
        TensorRtTarget().open(artifact).__enter__()


def test_refusals_name_no_folder(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach a report, and the folder is then the build's scratch."""
    artifact = build(CNN, settings={}, dims={})
    with pytest.raises(CannotRun) as without_engine:
        TensorRtTarget().open(artifact).__enter__()
    artifact.manifest.details["engines"] = {"89": {"file": "engine.sm89.plan", "version": "1"}}
    monkeypatch.setattr(loading, "find_gpu", lambda: Gpu("A100", 80))
    with pytest.raises(ArtifactRefused) as unfit:
        TensorRtTarget().open(artifact).__enter__()
    assert all(str(artifact.path) not in refused.value.message for refused in (without_engine, unfit))


@needs_rtx
def test_the_ready_graph_runs_on_onnx_runtime(build: Build) -> None:
    import onnxruntime

    artifact = build(INT8_CNN, precision="int8", settings={})
    session = onnxruntime.InferenceSession(lowered_onnx(artifact), providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": np.ones((2, 3, 16, 16), np.float32)})
    assert found.shape == (2, 8, 16, 16)
    assert np.isfinite(found).all()
    assert found.any()


@needs_rtx
def test_a_dimension_without_range_is_named_with_the_way_to_give_it(build: Build) -> None:
    with pytest.raises(UsageError, match=r"dimension\(s\) N, S[\s\S]*DimRange"):
        build(transformer_layer(), dims={})


@needs_rtx
def test_blockers_stop_the_build_before_anything_is_written(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelBlocked) as caught:
        build(CNN.replace("Relu(c)", 'BitShift<direction = "LEFT">(c, c)'))
    assert [blocker.operator for blocker in caught.value.blockers] == ["BitShift"]
    assert not list((tmp_path / "a").iterdir())


@needs_rtx
def test_what_only_the_parser_refuses_is_told_with_the_user_s_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "find_blockers", lambda model, architectures: ())
    model = ir.from_onnx_text(CNN.replace("Relu(c)", 'BitShift<direction = "LEFT">(c, c)'))
    node = next(node for node in model.graph if node.op_type == "BitShift")
    node.metadata_props["graphwright.source_line"] = "net.py:7"
    with pytest.raises(ModelBlocked) as caught:
        TensorRtTarget().build(model, tmp_path, BuildOptions(settings=SETTINGS, dims=DIMS))
    (blocker,) = caught.value.blockers
    assert (blocker.operator, blocker.source_line) == ("BitShift", "net.py:7")
    assert blocker.node  # it had none: graphwright named it


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_artifact_is_not_labelled_with_a_precision_that_its_graph_lacks(build: Build, precision: str) -> None:
    with pytest.raises(ModelBlocked, match="its products are in fp32"):
        build(CNN, precision=precision)


def engine_from(path: Path, text: str, *, sm: int = 89) -> object:
    """Build without asking for blockers first, as a model that the tables misjudge would be built."""
    ir.save(ir.from_onnx_text(text), path / "model.onnx")
    return run_isolated(
        "targets.tensorrt.build:build_engine",
        {
            "onnx_path": str(path / "model.onnx"),
            "engine_path": str(path / "engine.plan"),
            "module": "tensorrt_rtx",
            "architecture": sm,
            "ranges": {name: [[1, 2, 4, 8]] * 3 for name in "qkv"} | {"x": [[1, 4], [4, 4], [8, 4]], "s": [[1]] * 3},
            "workspace_bytes": None,
            "optimization_level": None,
            "tf32": False,
        },
        time_limit_s=60.0,
    )


@needs_rtx
def test_the_parser_is_asked_for_every_fault_not_the_first(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[N,4] x, int64[1] s) => (float[N,4] y) {{
        [first] a = Unique(x)
        [second] r = ReduceSum(x, s)
        [third] b = Det(x)
        [fourth] t = Transpose<perm = [1,0]>(x)
        y = Relu(x)
    }}"""
    with pytest.raises(ModelBlocked) as caught:
        engine_from(tmp_path, text)
    found = {(blocker.node, blocker.operator) for blocker in caught.value.blockers}
    assert {("first", "Unique"), ("second", "ReduceSum"), ("third", "Det")} <= found
    assert not [node for node, _ in found if node == "fourth"]


@needs_rtx
def test_a_type_that_the_architecture_lacks_fails_in_the_builder_s_words(tmp_path: Path) -> None:
    text = f"""{HEAD} g (bfloat16[N,4] x) => (bfloat16[N,4] y) <float[4,4] f = {{{", ".join(["1.0"] * 16)}}}> {{
        w = Cast<to = 16>(f) y = MatMul(x, w) }}"""
    with pytest.raises(BuildFailed, match=r"could not build an engine for SM75[\s\S]*It said"):
        engine_from(tmp_path, text, sm=75)


@needs_rtx
def test_a_crash_of_the_builder_is_an_error_of_ours(tmp_path: Path) -> None:
    text = f"""{HEAD.replace("21", "23")} g (float[1,2,4,8] q) => (float[1,2,4,8] y) {{ y = Attention(q, q, q) }}"""
    with pytest.raises(BuildFailed, match="SIGSEGV"):
        engine_from(tmp_path, text)


@needs_rtx
def test_the_time_limit_is_kept(build: Build) -> None:
    with pytest.raises(BuildFailed, match=r"time limit of 0\.05 s"):
        build(CNN, time_limit_s=0.05)


@needs_rtx
def test_an_output_of_another_type_than_the_graph_s_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = artifact_module.run_isolated

    def lying(*arguments: object, **options: object) -> object:
        description = honest(*arguments, **options)  # type: ignore[arg-type]
        return description | {"outputs": {"y": "HALF"}}

    monkeypatch.setattr(artifact_module, "run_isolated", lying)
    with pytest.raises(BuildFailed, match=r"outputs are \{'y': 'float16'\}, the graph's are \{'y': 'float32'\}"):
        build(CNN)


@needs_rtx
def test_open_says_why_an_engine_is_not_run(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = build(CNN)
    monkeypatch.setattr(loading, "find_gpu", lambda: None)
    with pytest.raises(CannotRun, match="SM89 was built ahead of time; this machine has no NVIDIA GPU"):
        TensorRtTarget().open(artifact).__enter__()
    monkeypatch.setattr(loading, "find_gpu", lambda: Gpu("A100", 80))
    with pytest.raises(ArtifactRefused, match=r"engines for SM89; this machine has a A100 \(SM80\)[\s\S]*sm=80"):
        TensorRtTarget().open(artifact).__enter__()
    monkeypatch.setattr(loading, "find_gpu", lambda: Gpu("L4", 89))
    if not find_library("cuda"):
        with pytest.raises(CannotRun, match=r"libcuda\.so\.1 cannot be loaded"):
            TensorRtTarget().open(artifact).__enter__()
    artifact.manifest.details["engines"]["89"]["version"] = "1.6"
    with pytest.raises(ArtifactRefused, match=r"built by tensorrt_rtx 1\.6; 1\.\d"):
        TensorRtTarget().open(artifact).__enter__()
    with (artifact.path / "engine.sm89.plan").open("ab") as file:
        file.write(b"changed")
    with pytest.raises(ArtifactRefused, match="changed after the build"):
        TensorRtTarget().open(artifact).__enter__()


# TensorRT's full package needs a GPU to build. This one has its interface: RTX's without compute capabilities. Behind
# the scenes it builds for SM89, whichever GPU is pretended.
FULL_PACKAGE = """
import tensorrt_rtx as rtx
from tensorrt_rtx import *
del ComputeCapability, EngineValidity
__version__ = "11.4.0"

class Builder(rtx.Builder):
    def create_builder_config(self):
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return config
"""


@needs_rtx
def test_the_full_package_builds_for_the_gpu_at_hand(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pretended_full_tensorrt.py").write_text(FULL_PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(backend.MODULES, "full", "pretended_full_tensorrt")
    monkeypatch.setattr(backend, "find_gpu", lambda: Gpu("H100", 90))
    monkeypatch.setattr(artifact_module, "find_gpu", lambda: Gpu("H100", 90))
    monkeypatch.setattr(backend, "find_package", lambda name: Package(version="11.4.0"))
    artifact = build(CNN, settings={}, name="b")
    assert (artifact.path / "engine.sm90.plan").stat().st_size == artifact.manifest.details["engines"]["90"]["bytes"]
    assert artifact.manifest.settings["backend"] == "full"
    assert artifact.manifest.versions == {"pretended_full_tensorrt": "11.4.0"}
    assert artifact.manifest.runs_here


def test_the_target_and_its_blockers_import_no_tensorrt() -> None:
    code = """
import sys
import onnx_ir as ir
from targets.base import BuildOptions
from targets.tensorrt.target import TensorRtTarget
model = ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Relu(x) }')
assert TensorRtTarget().blockers(model, BuildOptions(settings={"sm": "89"})) == ()
print(sorted({"tensorrt", "tensorrt_rtx", "torch", "onnxruntime"} & set(sys.modules)))
"""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"
