"""Every command's result, JSON and exit code, through the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from exporter.cli import main
from exporter.report.json import schema
from exporter.report.schema import violations
from passes.base import Context, Pass, PassResult
from tests.support.onnx_sources import classifier, classifier_samples
from tests.support.ruined_model import RUINED, ruined_model, ruined_samples


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@dataclass(frozen=True)
class Faulty(Pass):
    """Takes Relu for Abs."""

    name: ClassVar[str] = "faulty"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        for node in model.graph:
            if node.op_type == "Relu" and recorder.may_apply(node, "relu-to-abs"):
                node.op_type = "Abs"
        return recorder.result()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "model": classifier(folder / "in" / "model.onnx"),
        "samples": classifier_samples(folder / "held_out", seed=1),
        "calibration": classifier_samples(folder / "calibration", seed=2, count=12),
    }


@pytest.fixture(scope="module")
def built(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    done = run(
        "build", files["model"], "-o", out, "--samples", files["samples"], "--calibration", files["calibration"],
        "--target", "onnxruntime", "--target", "openvino", "--precision", "fp32,int8", "--speed-seconds", 0.2,
        "--gate", "int8:sqnr=10", "--gate", "int8:worst_sample_sqnr_db=3", "--gate", "int8:cosine=0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


def test_a_build_leaves_the_documented_folder(built: Path) -> None:
    names = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    assert {"manifest.json", "model.onnx", "report.html", "report.json", "junit.xml"} <= names
    for artifact in ("onnxruntime/fp32", "onnxruntime/int8", "openvino/fp32", "openvino/int8"):
        assert f"{artifact}/manifest.json" in names
    assert [path.name for path in built.parent.iterdir()] == ["out"]


def test_manifests_say_where_an_artifact_came_from(built: Path) -> None:
    manifest = json.loads((built / "openvino" / "int8" / "manifest.json").read_text())
    whole = json.loads((built / "manifest.json").read_text())
    assert manifest["source_sha256"] == whole["source_sha256"]
    assert "quantize-static" in manifest["pipeline"]
    assert manifest["verdicts"]["execution"] == "passed"
    assert manifest["details"]["dims"]["batch"] == [1, 5, 10]
    assert whole["artifacts"]["openvino/int8"]["verdict"] == "passed"


def test_two_builds_are_byte_identical(built: Path, files: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "out"
    done = run(
        "build", files["model"], "-o", again, "--samples", files["samples"], "--calibration", files["calibration"],
        "--target", "onnxruntime", "--target", "openvino", "--precision", "fp32,int8", "--speed-seconds", 0,
        "--gate", "int8:sqnr=10", "--gate", "int8:worst_sample_sqnr_db=3", "--gate", "int8:cosine=0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for path in built.rglob("*"):
        if path.is_file() and path.suffix not in (".html", ".xml") and path.name != "report.json":
            assert (again / path.relative_to(built)).read_bytes() == path.read_bytes() or path.suffix == ".xml"
    assert (again / "openvino/int8/openvino.xml").read_bytes() == (built / "openvino/int8/openvino.xml").read_bytes()


def test_build_json_is_the_report(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("build", files["model"], "-o", out, "--samples", files["samples"], "--speed-seconds", 0, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data == json.loads((out / "report.json").read_text())
    assert data["exit_code"] == 0
    assert data["artifacts"][0]["target"] == "onnxruntime"


def test_verify_checks_a_whole_build_or_one_artifact(built: Path, files: dict[str, Path]) -> None:
    gates = ("--gate", "int8:sqnr=10", "--gate", "int8:worst_sample_sqnr_db=3", "--gate", "int8:cosine=0")
    whole = run("verify", built, "--against", files["model"], "--samples", files["samples"], "--json", *gates)
    assert whole.exit_code == 0, whole.output
    assert len(json.loads(whole.stdout)["artifacts"]) == 4
    one = run(
        "verify", built / "openvino" / "fp32", "--against", files["model"], "--samples", files["samples"], "--json"
    )
    assert [each["label"] for each in json.loads(one.stdout)["artifacts"]] == ["fp32"]


def test_verify_fails_with_3_against_another_model(built: Path, files: dict[str, Path], tmp_path: Path) -> None:
    model = ir.load(files["model"])
    bias = model.graph.initializers["b2"]
    bias.const_value = ir.tensor(np.asarray(bias.const_value) + np.float32(0.5), name="b2")
    other = tmp_path / "other.onnx"
    ir.save(model, other)
    done = run("verify", built / "openvino" / "fp32", "--against", other, "--samples", files["samples"], "--json")
    assert done.exit_code == 3
    assert any("another source" in note for note in json.loads(done.stdout)["notes"])


def test_verify_writes_reports(built: Path, files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    run(
        "verify",
        built / "openvino/fp32",
        "--against",
        files["model"],
        "--samples",
        files["samples"],
        "--report",
        folder,
    )
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "junit.xml"}


def test_a_changed_artifact_is_refused(built: Path, files: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(built / "openvino" / "fp32", copy)
    with (copy / "openvino.bin").open("r+b") as stream:
        stream.write(b"\x01")
    done = run("verify", copy, "--against", files["model"], "--samples", files["samples"])
    assert done.exit_code == 2
    assert "was changed after the build" in done.output


def test_bench_times_side_by_side(built: Path, files: dict[str, Path]) -> None:
    done = run("bench", built, "--against", files["model"], "--samples", files["samples"], "--seconds", 0.2, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    for artifact in data["artifacts"]:
        baselines = {each["baseline"]["label"] for each in artifact["speed"]}
        assert "original" in baselines
        assert all(each["ratio_low"] <= each["ratio"] <= each["ratio_high"] for each in artifact["speed"])


def test_bench_without_an_original_generates_inputs_and_says_so(built: Path) -> None:
    done = run("bench", built / "openvino", "--seconds", 0.2, "--json")
    assert done.exit_code == 0, done.output
    assert "generated" in json.loads(done.stdout)["samples"]["timed"]


def test_an_impossible_speedup_fails_with_4(built: Path, files: dict[str, Path]) -> None:
    done = run(
        "bench", built / "openvino" / "fp32", "--against", files["model"], "--samples", files["samples"],
        "--seconds", 0.2, "--gate", "speedup=100000",
    )  # fmt: skip
    assert done.exit_code == 4, done.output


def test_an_impossible_size_fails_with_4(files: dict[str, Path], tmp_path: Path) -> None:
    done = run(
        "build", files["model"], "-o", tmp_path / "out", "--samples", files["samples"], "--speed-seconds", 0,
        "--gate", "size_ratio=0.01",
    )  # fmt: skip
    assert done.exit_code == 4, done.output


def test_a_speed_gate_that_was_not_measured_is_not_passed(files: dict[str, Path], tmp_path: Path) -> None:
    done = run(
        "build", files["model"], "-o", tmp_path / "out", "--samples", files["samples"], "--speed-seconds", 0,
        "--gate", "speedup=0.1",
    )  # fmt: skip
    assert done.exit_code == 6, done.output


def test_an_artifact_for_elsewhere_is_not_run_unless_waived(files: dict[str, Path], tmp_path: Path) -> None:
    arguments = (
        "build",
        files["model"],
        "--samples",
        files["samples"],
        "--speed-seconds",
        0,
        "--target",
        "tensorrt:sm=89",
    )
    plain = run(*arguments, "-o", tmp_path / "plain", "--json")
    waived = run(*arguments, "-o", tmp_path / "waived", "--waive", "execution:tensorrt", "--json")
    assert (plain.exit_code, waived.exit_code) == (6, 0), plain.output + waived.output
    (artifact,) = json.loads(waived.stdout)["artifacts"]
    assert artifact["verdict"] == "waived"
    assert any(stage["stage"].startswith("lowered graph") for stage in json.loads(waived.stdout)["stages"])


def test_inspect_a_model_and_artifacts(built: Path, files: dict[str, Path]) -> None:
    model = json.loads(run("inspect", files["model"], "--json").stdout)
    assert model["operators"]["Conv"] == 1
    assert [spec["name"] for spec in model["inputs"]] == ["image", "other"]
    found = json.loads(run("inspect", built, "--json").stdout)["artifacts"]
    assert len(found) == 4
    assert "openvino" in run("inspect", built).output
    assert "Conv" in run("inspect", files["model"]).output


def test_inspect_tells_an_unknown_rank_from_a_number(tmp_path: Path) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 18]>\ng (float x, float z) => (float y) { y = Add (x, z) }'
    )
    model.graph.inputs[1].shape = None
    ir.save(model, tmp_path / "m.onnx")
    lines = run("inspect", tmp_path / "m.onnx").output.splitlines()
    assert "input     x: float32[]" in lines
    assert "input     z: float32, of any rank" in lines
    assert json.loads(run("inspect", tmp_path / "m.onnx", "--json").stdout)["unranked"] == ["z"]


def test_optimize_prints_what_it_did(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "optimized.onnx"
    done = run("optimize", files["model"], "-o", out, "--check", "--why")
    assert done.exit_code == 0, done.output
    assert "BatchNormalization" not in {node.op_type for node in ir.load(out).graph}
    data = json.loads(run("optimize", files["model"], "-o", out, "--json").stdout)
    assert data["nodes_after"] < data["nodes_before"]


def test_optimize_check_alone_writes_nothing_and_says_what_it_compared(files: dict[str, Path], tmp_path: Path) -> None:
    done = run("optimize", files["model"], "--check")
    assert done.exit_code == 0, done.output
    assert "checked on 4 sets of generated inputs" in done.output
    assert "fuse-conv-batch-norm: 1 rewrites, worst difference" in done.output
    assert "nothing written" in done.output
    check = json.loads(run("optimize", files["model"], "--check", "--json").stdout)["check"]
    assert {row["name"] for row in check["passes"]} >= {"fuse-conv-batch-norm"}
    assert check["inputs"][0]["shapes"][1][0] == 1
    assert all(row["worst"] < 1e-4 for row in check["passes"])
    assert run("optimize", files["model"]).exit_code == 2


def test_optimize_says_which_rules_and_nodes_and_groups_refusals(tmp_path: Path) -> None:
    lines = [
        f"a{i} = Mul (x, r) e{i} = Erf (a{i}) p{i} = Add (e{i}, o) q{i} = Mul (x, p{i}) y{i} = Mul (q{i}, h)"
        for i in range(12)
    ]
    outs = ", ".join(f"float[N,4] y{i}, float[N,4] e{i}" for i in range(12))
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[N,4] x) => ({outs}) {{
        h = Constant <value = float {{0.5}}> () r = Constant <value = float {{0.70710677}}> ()
        o = Constant <value = float {{1.0}}> () {" ".join(lines)} }}"""
    ir.save(ir.from_onnx_text(text), tmp_path / "m.onnx")
    done = run("optimize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--pipeline", "fuse-gelu", "--why")
    refused = [line for line in done.output.splitlines() if line.startswith("refused")]
    assert len(refused) == 1, done.output
    assert refused[0].startswith("refused 12 x fuse-gelu")
    assert "is an output of the graph" in refused[0]
    data = json.loads(run("optimize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--json").stdout)
    assert [row["count"] for row in data["refusals"] if row["pass"] == "fuse-gelu"] == [12]
    assert data["size_before_bytes"] > 0 < data["size_after_bytes"]
    done = run("optimize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "-v")
    assert "upgrade-opset 20-to-23 at g" in done.output


def test_localize_finds_nothing_in_a_right_pipeline(files: dict[str, Path]) -> None:
    done = run("localize", files["model"], "--passes")
    assert done.exit_code == 0, done.output
    assert "rewrites keep the results" in done.output
    assert json.loads(run("localize", files["model"], "--passes", "--json").stdout)["culprit"] is None
    assert run("localize", files["model"]).exit_code == 2


def test_localize_names_the_rewrite_that_breaks(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.catalogue import PASSES

    monkeypatch.setitem(PASSES, Faulty.name, Faulty)
    done = run("localize", files["model"], "--passes", "--pipeline", "remove-identities,faulty", "--print")
    assert done.exit_code == 3, done.output
    assert "The pass 'faulty', rule 'relu-to-abs'" in done.output
    assert "--pipeline 'remove-identities,faulty' --limit" in done.output
    assert any(line.startswith("+") and "Abs" in line for line in done.output.splitlines())
    data = json.loads(run("localize", files["model"], "--passes", "--pipeline", "faulty", "--json").stdout)
    assert data["culprit"]["limit"] == 1
    done = run("optimize", files["model"], "--check", "--pipeline", "faulty")
    assert done.exit_code == 1
    assert "changed the result" in done.output


def test_optimize_limit_zero_changes_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "same.onnx"
    assert run("optimize", files["model"], "-o", out, "--limit", 0).exit_code == 0
    assert [node.op_type for node in ir.load(out).graph] == [node.op_type for node in ir.load(files["model"]).graph]


def test_optimize_can_be_watched(files: dict[str, Path], tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    done = run(
        "optimize",
        files["model"],
        "-o",
        tmp_path / "o.onnx",
        "--print-after",
        "fuse-conv-batch-norm",
        "--dump-dir",
        dump,
    )
    assert "after fuse-conv-batch-norm" in done.output
    assert any("fuse-conv-batch-norm" in path.name for path in dump.iterdir())


def test_doctor_names_every_target() -> None:
    data: dict[str, Any] = json.loads(run("doctor", "--json").stdout)
    assert set(data["targets"]) >= {"onnxruntime", "openvino", "xla", "tensorrt"}
    assert data["targets"]["onnxruntime"]["can_run"] is True
    assert run("doctor").exit_code == 0


def test_a_gate_for_what_is_not_built_is_refused(files: dict[str, Path], built: Path, tmp_path: Path) -> None:
    done = run(
        "build", files["model"], "-o", tmp_path / "out", "--samples", files["samples"], "--gate", "int8:cosine=1.0"
    )
    assert done.exit_code == 2, done.output
    assert "int8" in done.output
    arguments = ("--against", files["model"], "--samples", files["samples"], "--gate", "int8:cosine=1.0")
    assert run("verify", built / "openvino" / "fp32", *arguments).exit_code == 2


def test_a_waiver_does_not_cover_a_gate_that_could_not_be_judged(files: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("build", files["model"], "--samples", files["samples"], "--speed-seconds", 0, "--waive", "execution")
    done = run(*arguments, "-o", tmp_path / "out", "--gate", "speedup=0.1")
    assert done.exit_code == 6, done.output


def test_bench_tells_artifacts_of_two_builds_apart(built: Path, files: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    for name in ("first", "second"):
        shutil.copytree(built, tmp_path / "both" / name)
    done = run("bench", tmp_path / "both", "--seconds", 0.2, "--json")
    assert done.exit_code == 0, done.output
    speeds = [each["speed"] for each in json.loads(done.stdout)["artifacts"]]
    assert len(speeds) == 8
    labels = {comparison["candidate"]["label"] for speed in speeds for comparison in speed}
    assert len(labels) == 8


def test_a_manifest_names_no_absolute_path(built: Path, files: dict[str, Path]) -> None:
    for path in built.rglob("manifest.json"):
        assert str(files["model"].parent) not in path.read_text()


def test_sensitivity_lists_every_int8_operator(tmp_path: Path) -> None:
    model = ruined_model(tmp_path / "model.onnx")
    samples = ruined_samples(tmp_path / "samples", seed=1)
    done = run("sensitivity", model, "--calibration", samples, "--target", "openvino", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["calibration_samples"] == 4
    assert found["samples"] == 4
    ranked = sorted(found["layers"], key=lambda layer: layer["sqnr_db"])
    assert ranked[0]["name"] == RUINED
    assert ranked[0]["sqnr_db"] < ranked[1]["sqnr_db"] - 10
    assert sum(layer["share"] for layer in ranked) == pytest.approx(1)
    plain = run("sensitivity", model, "--calibration", samples, "--samples", 1)
    assert plain.exit_code == 0, plain.output
    assert RUINED in plain.stdout
    assert "1 samples run" in plain.stdout


def test_sensitivity_without_samples_says_what_to_give(tmp_path: Path) -> None:
    done = run("sensitivity", ruined_model(tmp_path / "model.onnx"))
    assert done.exit_code == 2
    assert "--calibration" in done.output


def test_auto_is_built_reported_and_verified(tmp_path: Path) -> None:
    model = ruined_model(tmp_path / "model.onnx")
    held_out = ruined_samples(tmp_path / "held_out", seed=1, count=3)
    done = run(
        "build", model, "-o", tmp_path / "out", "--samples", held_out, "--precision", "auto", "--gate", "sqnr=25",
        "--calibration", ruined_samples(tmp_path / "calibration", seed=2), "--search-cache", tmp_path / "cache",
        "--trials", 12, "--speed-seconds", 0.1, "--no-baselines", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert violations(document, schema()) == []
    search = document["artifacts"][0]["search"]
    assert search["is_met"]
    assert {trial["title"] for trial in search["trials"]} >= {"fp32", "int8"}
    assert all(trial["latency_ms"] for trial in search["trials"] if trial["is_on_front"])
    again = run("verify", tmp_path / "out", "--against", model, "--samples", held_out, "--gate", "sqnr=25")
    assert again.exit_code == 0, again.output
