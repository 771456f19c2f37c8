"""`--precision auto` on a real network with a layer that int8 ruins: kept, told, resumed, and never passed silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import exporter
from exporter.evaluation.speed import Measurement
from exporter.results import ArtifactReport
from exporter.search import racing
from exporter.search.findings import SearchReport
from exporter.search.trials import Trial, Trials
from passes.errors import ExitCode, UsageError
from tests.support.ruined_model import RUINED, ruined_model, ruined_samples


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "source": str(ruined_model(folder / "model.onnx")),
        "samples": str(ruined_samples(folder / "held_out", seed=1, count=3)),
        "calibration": str(ruined_samples(folder / "calibration", seed=2)),
    }


@pytest.fixture(autouse=True)
def _int8_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, {"int8": 1.0, "kept": 0.2, "fp32": 4.0, "fp16": 8.0, "bf16": 3.0})


def times(monkeypatch: pytest.MonkeyPatch, milliseconds: Mapping[str, float]) -> None:
    """Let every candidate take the time of its precision, and "kept" more for each operator that it keeps."""
    made: dict[str, float] = {}
    build = Trials.build

    def watched(self: Trials, candidate: Any) -> Any:
        made[candidate.key] = milliseconds[candidate.precision] + milliseconds["kept"] * len(candidate.keep)
        return build(self, candidate)

    def measured(runners: Mapping[str, Any], feeds: Any, *, threads: int, plan: Any) -> Measurement:
        for run in runners.values():
            run(feeds)
        found = {key: (made[key],) * 10 for key in runners}
        return Measurement(found, next(iter(found.values())), "image [6, 4, 8, 8]", threads)

    monkeypatch.setattr(Trials, "build", watched)
    monkeypatch.setattr(racing, "measure", measured)


def build(files: Mapping[str, Any], folder: Path, **others: Any) -> ArtifactReport:
    settings: dict[str, Any] = {
        "precisions": "auto",
        "targets": "onnxruntime",
        "gates": ("sqnr_db=25",),
        "search_cache": str(folder / "cache"),
        "speed_seconds": 0.0,
        **files,
        **others,
    }
    return exporter.build(out=folder / "out", **settings).artifacts[0]


def searched(artifact: ArtifactReport) -> SearchReport:
    assert artifact.search is not None
    return artifact.search


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_ruined_layer_is_kept_and_the_rest_is_int8(files: dict[str, Any], tmp_path: Path, target: str) -> None:
    artifact = build(files, tmp_path, targets=target)
    found = searched(artifact)
    assert artifact.exit_code is ExitCode.OK, artifact.reason
    assert artifact.path == f"{target}/auto"
    assert artifact.precision == "int8"
    assert found.is_met
    whole = next(trial for trial in found.trials if trial.title == "int8")
    assert not whole.is_met
    chosen = next(trial for trial in found.trials if trial.is_chosen)
    assert chosen.kept == (RUINED,)
    assert min(found.sensitivity, key=lambda layer: layer.sqnr_db).name == RUINED
    kept = next(layer for layer in found.kept if layer.name == RUINED)
    assert "number 1 of" in kept.reason
    assert kept.op_type == "Conv"
    manifest = json.loads((tmp_path / "out" / target / "auto" / "manifest.json").read_text())
    assert manifest["details"]["auto"]["kept"][0]["name"] == RUINED
    assert f"keep=[{RUINED}]" in manifest["pipeline"]
    assert manifest["precision"] == "int8"
    assert manifest["details"]["executed"]["by_node"][RUINED] in ("float", "fp32", "bf16")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "how its precision was chosen" in html
    assert "<polyline" in html


def test_without_the_ruin_nothing_is_kept(files: dict[str, Any], tmp_path: Path) -> None:
    artifact = build(files, tmp_path, gates=("sqnr_db=-90", "worst_sample_sqnr_db=-90", "cosine=-1", "max_relative=99"))
    assert searched(artifact).chosen == "int8"
    assert searched(artifact).sensitivity == ()


def test_a_gate_that_cannot_be_met_is_exit_code_3_with_the_best_found(files: dict[str, Any], tmp_path: Path) -> None:
    artifact = build(files, tmp_path, gates=("sqnr_db=290",))
    assert artifact.exit_code is ExitCode.ACCURACY
    assert artifact.verdict is exporter.Verdict.FAILED
    assert not searched(artifact).is_met
    assert searched(artifact).chosen == "fp32"
    assert "no candidate meets the gates" in artifact.reason
    assert (tmp_path / "out" / artifact.path / "manifest.json").is_file()


def test_where_quantized_is_slower_fp32_is_taken_and_it_says_so(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {"int8": 9.0, "kept": 0.2, "fp32": 4.0, "fp16": 8.0})
    artifact = build(files, tmp_path)
    assert artifact.precision == "fp32"
    assert artifact.path == "onnxruntime/auto"
    assert "quantized is slower" in searched(artifact).why
    assert "9.2 ms" in searched(artifact).why


def test_a_second_run_goes_on_where_the_first_one_ended(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = Trials._tried
    stop_after = 2
    count = 0

    def interrupted(self: Trials, candidate: Any) -> Any:
        nonlocal count
        count += 1
        if count > stop_after:
            raise KeyboardInterrupt
        return tried(self, candidate)

    monkeypatch.setattr(Trials, "_tried", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(files, tmp_path)
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "cache").rglob("trial-*.json"))) == stop_after
    stop_after, count = 1000, 0
    first = searched(build(files, tmp_path))
    assert first.resumed == 2
    count = 0
    second = searched(build(files, tmp_path))
    assert count == 0
    assert second.resumed == len(second.trials)
    assert second.chosen == first.chosen
    assert second.sensitivity == first.sensitivity


def test_other_samples_settings_and_gates(files: dict[str, Any], tmp_path: Path) -> None:
    build(files, tmp_path)
    stricter = searched(build(files, tmp_path, gates=("sqnr_db=28",)))
    assert stricter.resumed >= 3, "what was measured holds under another gate"
    other = ruined_samples(tmp_path / "other", seed=3)
    assert searched(build(files, tmp_path, calibration=str(other))).resumed == 0
    assert searched(build(files, tmp_path, quantize="quantize-static{smooth=false}")).resumed == 0


def test_the_bound_on_trials_holds_and_is_told(files: dict[str, Any], tmp_path: Path) -> None:
    found = searched(build(files, tmp_path, trials=3))
    assert len(found.trials) == 3
    assert any("3 trials" in note for note in found.notes)


def test_one_sample_cannot_be_split(files: dict[str, Any], tmp_path: Path) -> None:
    single = ruined_samples(tmp_path / "single", seed=3, count=1)
    with pytest.raises(exporter.GraphwrightError, match="one sample"):
        build(files, tmp_path, calibration=str(single))


def test_the_held_out_samples_have_the_last_word(files: dict[str, Any], tmp_path: Path) -> None:
    lying = ruined_samples(tmp_path / "held_out", seed=1, count=3)
    for file in lying.glob("*.npz"):
        np.savez(file, image=np.load(file)["image"] * 1e4)  # far beyond what was calibrated
    artifact = build(files, tmp_path, samples=str(lying))
    assert searched(artifact).is_met
    assert artifact.exit_code is ExitCode.ACCURACY


def test_where_nothing_can_be_int8_a_float_graph_is_taken(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N,4] x) => (float[N,4] y) { y = Softmax (x) }'
    )
    onnx.save(model, tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    for name in ("samples", "calibration"):
        (tmp_path / name).mkdir()
        for index in range(4):
            np.savez(tmp_path / name / f"{index}.npz", x=random.standard_normal((6, 4), dtype=np.float32))
    own = {name: str(tmp_path / name) for name in ("samples", "calibration")}
    artifact = build({"source": str(tmp_path / "model.onnx"), **own}, tmp_path, gates=())
    assert artifact.exit_code is ExitCode.OK, artifact.reason
    assert artifact.precision == "fp32"
    assert "Nothing in this model could be put into int8" in searched(artifact).why


def test_a_damaged_record_is_measured_again(files: dict[str, Any], tmp_path: Path) -> None:
    first = searched(build(files, tmp_path))
    records = sorted((tmp_path / "cache").rglob("*.json"))
    for index, record in enumerate(records):
        record.write_text(("{}", "[]", '{"outputs": 1}', "\x00")[index % 4])
    again = searched(build(files, tmp_path))
    assert again.resumed == 0
    assert again.chosen == first.chosen


def test_a_failure_is_not_kept(files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Trials._tried

    def short_of_time(self: Trials, candidate: Any) -> Any:
        return Trial(candidate, reason="out of time") if candidate.precision == "int8" else tried(self, candidate)

    monkeypatch.setattr(Trials, "_tried", short_of_time)
    assert searched(build(files, tmp_path)).chosen == "fp32"
    monkeypatch.setattr(Trials, "_tried", tried)
    assert build(files, tmp_path).precision == "int8"


def test_a_cache_that_cannot_be_written(files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"search cache .* cannot be written"):
        build(files, tmp_path, search_cache=str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    artifact = build(files, tmp_path, search_cache=None)
    assert artifact.exit_code is ExitCode.OK
    assert any("Nothing was kept" in note for note in searched(artifact).notes)


def test_a_gate_on_quantized_speed_is_not_passed_by_a_float_choice(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {"int8": 9.0, "kept": 0.2, "fp32": 4.0, "fp16": 8.0})
    gates = ("sqnr_db=25", "auto:speedup_over_float=1.0")
    settings = {"precisions": "auto,fp32", "gates": gates, "speed_seconds": 0.1}
    artifact = build(files, tmp_path, **settings)
    assert artifact.precision == "fp32"
    assert [gate.verdict for gate in artifact.gates] == [exporter.Verdict.NOT_RUN]
    assert artifact.exit_code is ExitCode.NOT_RUN
    assert "the search chose fp32" in artifact.gates[0].reason


def test_verify_holds_the_artifact_to_the_gates_that_the_build_did(files: dict[str, Any], tmp_path: Path) -> None:
    gates = ("auto:sqnr_db=25",)
    made = build(files, tmp_path, gates=gates)
    given = {"against": files["source"], "samples": files["samples"]}
    checked = exporter.verify(tmp_path / "out", gates=gates, **given).artifacts[0]
    assert made.accuracy is not None
    assert checked.accuracy is not None
    assert checked.accuracy.gates == made.accuracy.gates
    assert exporter.verify(tmp_path / "out", gates=("auto:sqnr_db=290",), **given).exit_code is ExitCode.ACCURACY
    with pytest.raises(UsageError, match="no precision and no target"):
        exporter.verify(tmp_path / "out", gates=("int8:sqnr_db=25",), **given)


def test_a_half_precision_choice_is_judged_by_one_row_throughout(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, {"int8": 9.0, "kept": 0.2, "fp32": 4.0, "fp16": 1.0})
    settings = {**files, "targets": "onnxruntime", "precisions": "auto", "search_cache": str(tmp_path / "cache")}
    report = exporter.build(out=tmp_path / "out", speed_seconds=0.0, **settings)
    (stage,) = [stage for stage in report.stages if stage.stage.startswith("fp16 for")]
    wanted = {gate.name: gate.threshold for gate in stage.gates}
    assert report.artifacts[0].accuracy is not None
    assert wanted == {gate.name: gate.threshold for gate in report.artifacts[0].accuracy.gates}
    checked = exporter.verify(tmp_path / "out", against=files["source"], samples=files["samples"]).artifacts[0]
    assert checked.accuracy is not None
    assert wanted == {gate.name: gate.threshold for gate in checked.accuracy.gates}


def test_held_out_samples_that_the_search_saw_are_told(files: dict[str, Any], tmp_path: Path) -> None:
    copy = ruined_samples(tmp_path / "copy", seed=2)
    settings = {**files, "targets": "onnxruntime", "precisions": "auto", "search_cache": str(tmp_path / "cache")}
    report = exporter.build(out=tmp_path / "out", speed_seconds=0.0, **{**settings, "samples": str(copy)})
    assert any("Calibration and held-out samples are the same" in note for note in report.notes)
