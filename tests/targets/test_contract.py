"""The contract of targets.base.Target, run against every target: built in or third-party.

A target that cannot build or run here must say so in the way that the contract names; that is asserted, not skipped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from passes.base import Context
from passes.capabilities import Capabilities
from passes.errors import ArtifactRefused, CannotRun, ExitCode, GraphwrightError, MissingDependency, UsageError
from passes.parse import pipeline_from_text
from targets.base import PRECISIONS, Artifact, BuildOptions, DimRange, Readiness, Target
from targets.manifest import FILE_NAME, read_manifest
from targets.registry import BUILT_IN, ENTRY_POINT_GROUP, get_target
from tests.support.small_models import SMALL_MODELS, sqnr_db, unoptimized

NAMES = [name for name, _ in BUILT_IN] + [entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)]
OPTIONS = BuildOptions(dims={"batch": DimRange(1, 2, 4), "sequence": DimRange(1, 5, 8)})
SIZES = [(1, 5), (3, 7), (4, 1)]
FP32_LEAST_SQNR_DB = 80.0


@pytest.fixture(params=NAMES)
def target(request) -> Target:
    return get_target(request.param)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function that builds a small model for a target, once for each pair."""
    cache: dict[tuple[str, str], Artifact] = {}

    def build(target: Target, name: str) -> Artifact:
        if (target.name, name) not in cache:
            cache[target.name, name] = build_fresh(target, name, tmp_path_factory.mktemp(f"{target.name}-{name}"))
        return cache[target.name, name]

    return build


def build_fresh(target: Target, name: str, out: Path) -> Artifact:
    """Build after the target's own legalisation. Where it can't build here, assert that it says so, and leave."""
    readiness = target.probe()
    legal, _ = target.pipeline(OPTIONS).run(
        SMALL_MODELS[name].model(), context=Context(capabilities=target.capabilities(OPTIONS))
    )
    if not readiness.can_build:
        with pytest.raises((MissingDependency, CannotRun)) as refused:
            target.build(legal, out, OPTIONS)
        assert refused.value.exit_code is ExitCode.NOT_RUN
        pytest.skip(f"{target.name} cannot build here, and says so: {readiness.reason}")
    assert target.blockers(legal, OPTIONS) == ()
    return target.build(legal, out, OPTIONS)


def runs_here(target: Target, artifact: Artifact) -> bool:
    return target.probe().can_run and artifact.manifest.runs_here


def test_describes_itself(target: Target):
    assert isinstance(target, Target)
    assert target.summary.strip()
    assert "\n" not in target.summary
    assert isinstance(target.capabilities(OPTIONS), Capabilities)
    assert "fp32" in target.capabilities(OPTIONS).precisions


def test_probe_never_raises(target: Target, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(target.probe(), Readiness)
    monkeypatch.setattr("importlib.import_module", _raise_import_error)
    monkeypatch.setenv("PATH", "")
    readiness = target.probe()
    assert isinstance(readiness, Readiness)
    assert (readiness.can_build and readiness.can_run) or readiness.reason


def _raise_import_error(name: str, package: str | None = None):
    raise ImportError(f"no {name} in this test")


@pytest.mark.parametrize("setting", ["no_such_setting", "devicee", ""])
def test_refuses_unknown_settings(target: Target, setting: str):
    with pytest.raises(UsageError) as refused:
        target.check(dataclasses.replace(OPTIONS, settings={setting: "1"}))
    assert setting in refused.value.message


def test_refuses_unknown_precision(target: Target):
    with pytest.raises(UsageError, match="fp3"):
        target.check(dataclasses.replace(OPTIONS, precision="fp3"))


def test_labels_are_folder_names_and_tell_precisions_apart(target: Target):
    labels = [target.label(dataclasses.replace(OPTIONS, precision=precision)) for precision in PRECISIONS]
    assert len(set(labels)) == len(PRECISIONS)
    for label in labels:
        assert label == Path(label).name
        assert label == label.lower()


def test_pipeline_text_parses_back(target: Target):
    text = str(target.pipeline(OPTIONS))
    assert str(pipeline_from_text(text)) == text


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_equals_the_unoptimized_graph_at_sizes_that_were_not_built_for(target: Target, built, name: str):
    artifact = built(target, name)
    if not runs_here(target, artifact):
        with pytest.raises(CannotRun), target.open(artifact):
            pass
        return
    with target.open(artifact, threads=1) as runner:
        for batch, sequence in SIZES:
            feeds = SMALL_MODELS[name].feeds(batch, sequence)
            before = {key: array.copy() for key, array in feeds.items()}
            outputs, again = runner(feeds), runner(feeds)
            expected = unoptimized(SMALL_MODELS[name].model(), feeds)
            assert list(outputs) == list(expected)
            for key, reference in expected.items():
                assert outputs[key].dtype == reference.dtype
                assert outputs[key].shape == reference.shape
                assert sqnr_db(outputs[key], reference) >= FP32_LEAST_SQNR_DB
                np.testing.assert_array_equal(outputs[key], again[key])
                assert not np.shares_memory(outputs[key], again[key])
            for key, array in before.items():
                np.testing.assert_array_equal(feeds[key], array)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_manifest_is_complete(target: Target, built, name: str):
    artifact = built(target, name)
    manifest = read_manifest(artifact.path)
    assert manifest == _through_json(artifact.manifest)
    assert manifest.target == target.name
    assert manifest.precision == "fp32"
    assert manifest.versions or not manifest.runs_here
    assert all(manifest.versions.values())
    assert manifest.settings
    on_disk = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
    assert on_disk == {*manifest.files, FILE_NAME}
    graph = SMALL_MODELS[name].model().graph
    for specs, values in ((manifest.inputs, graph.inputs), (manifest.outputs, graph.outputs)):
        assert [spec.name for spec in specs] == [value.name for value in values]
        assert [spec.dtype for spec in specs] == [str(value.dtype.numpy()) for value in values]
        assert [len(spec.shape) for spec in specs] == [len(value.shape) for value in values]
    assert manifest.inputs[0].shape[0] == "batch"


def _through_json(manifest):
    data = json.loads(json.dumps(dataclasses.asdict(manifest)))
    return dataclasses.replace(manifest, details=data["details"])


def test_names_no_path_of_the_building_machine(target: Target, built):
    artifact = built(target, "mlp")
    for path in artifact.path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for folder in {artifact.path, Path.home(), Path.cwd(), Path(tempfile.gettempdir())} - {Path("/")}:
            assert f"{folder}/".encode() not in content, path.name


def test_refuses_changed_files(target: Target, built, tmp_path: Path):
    artifact = built(target, "mlp")
    for name in artifact.manifest.files:
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(artifact.path, folder)
        path = folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        copy = Artifact(folder, artifact.manifest)
        with pytest.raises(ArtifactRefused if runs_here(target, artifact) else GraphwrightError), target.open(copy):
            pass


def test_refuses_missing_files(target: Target, built, tmp_path: Path):
    artifact = built(target, "mlp")
    folder = tmp_path / "copy"
    shutil.copytree(artifact.path, folder)
    (folder / next(iter(artifact.manifest.files))).unlink()
    copy = Artifact(folder, artifact.manifest)
    with pytest.raises(ArtifactRefused if runs_here(target, artifact) else GraphwrightError), target.open(copy):
        pass


def test_refuses_wrong_inputs(target: Target, built):
    artifact = built(target, "tokens")
    if not runs_here(target, artifact):
        with pytest.raises(CannotRun), target.open(artifact):
            pass
        return
    good = SMALL_MODELS["tokens"].feeds(2, 5)
    wrong = {
        "missing": {"ids": good["ids"]},
        "unknown": {**good, "idz": good["ids"]},
        "swapped": {"ids": good["weights"], "weights": good["ids"]},
        "narrow": {**good, "ids": good["ids"].astype(np.int32)},
        "wide": {**good, "weights": good["weights"].astype(np.float64)},
        "rank": {**good, "weights": good["weights"][..., 0]},
        "fixed size": {**good, "weights": np.repeat(good["weights"], 2, axis=2)},
    }
    with target.open(artifact) as runner:
        for what, feeds in wrong.items():
            with pytest.raises(UsageError):
                runner(feeds)
                pytest.fail(f"accepted: {what}")
        runner(good)


def test_rebuilds_byte_for_byte(target: Target, built, tmp_path: Path):
    first = built(target, "convolutions")
    second = build_fresh(target, "convolutions", tmp_path)
    assert second.manifest.files == first.manifest.files
    assert (second.path / FILE_NAME).read_bytes() == (first.path / FILE_NAME).read_bytes()


def test_building_leaves_the_graph_as_it_was(target: Target, tmp_path: Path):
    if not target.probe().can_build:
        return  # build_fresh asserts how it refuses
    legal, _ = target.pipeline(OPTIONS).run(SMALL_MODELS["tokens"].model())
    before = ir.to_proto(legal).SerializeToString(deterministic=True)
    target.blockers(legal, OPTIONS)
    target.build(legal, tmp_path, OPTIONS)
    assert ir.to_proto(legal).SerializeToString(deterministic=True) == before


def test_lists_all_blockers_at_once(target: Target):
    text = """<ir_version: 10, opset_import: ["" : 20, "unknown.domain" : 1]>
    g (float[batch, 4] x) => (float[batch, 4] y) {
        a = unknown.domain.FirstOdd(x)
        b = Relu(a)
        c = unknown.domain.SecondOdd(b)
        d = unknown.domain.FirstOdd(c)
        y = Relu(d)
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    for node, name in zip(model.graph, ("odd_1", "fine_1", "odd_2", "odd_3", "fine_2"), strict=True):
        node.name = name
    blockers = target.blockers(model, OPTIONS)
    assert {blocker.node for blocker in blockers} == {"odd_1", "odd_2", "odd_3"}
    assert {blocker.operator for blocker in blockers} == {"FirstOdd", "SecondOdd"}
    assert all(blocker.reason for blocker in blockers)
