"""manifest.json: it comes back as it was written, and a folder that does not match it is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from passes.errors import ArtifactRefused, ExitCode
from targets.base import TensorSpec
from targets.manifest import FILE_NAME, FORMAT_VERSION, Manifest, checked_file, hashes_of, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "graph.xml").write_text("<graph/>")
    write_manifest(tmp_path, manifest_of(tmp_path))
    return tmp_path


def manifest_of(folder: Path, **changes: object) -> Manifest:
    manifest = Manifest(
        target="somewhere",
        precision="int8",
        inputs=(TensorSpec("x", "float32", ("batch", None, 3)),),
        outputs=(TensorSpec("y", "bfloat16", ()),),
        files=hashes_of(folder, ["sub/graph.xml", "model.bin"]),
        settings={"threads": "1"},
        versions={"runtime": "1.2"},
        device="Größe 1",
        details={"executed": {"int8": 3, "names": ["a", "b"]}},
        waived=("execution",),
        verdicts={"execution": "passed"},
    )
    return dataclasses.replace(manifest, **changes)


def test_comes_back_equal(folder: Path):
    assert read_manifest(folder) == manifest_of(folder)


def test_equal_manifests_have_equal_bytes_and_no_time(folder: Path, tmp_path_factory):
    first = (folder / FILE_NAME).read_bytes()
    files = dict(reversed(list(manifest_of(folder).files.items())))
    write_manifest(folder, manifest_of(folder, files=files))
    assert (folder / FILE_NAME).read_bytes() == first
    assert "Größe" in first.decode("utf-8")


def refusal(folder: Path, **arguments: bool) -> ArtifactRefused:
    with pytest.raises(ArtifactRefused) as refused:
        read_manifest(folder, **arguments)
    assert refused.value.exit_code is ExitCode.USAGE
    return refused.value


def test_refuses_a_folder_without_one(tmp_path: Path):
    assert "holds no manifest.json" in refusal(tmp_path).message


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"format_version": 1'])
def test_refuses_a_truncated_one(folder: Path, text: str):
    (folder / FILE_NAME).write_text(text)
    assert "cannot be read" in refusal(folder).message


def test_refuses_bytes_that_are_not_text(folder: Path):
    (folder / FILE_NAME).write_bytes(b"\xff\xfe\x00{")
    assert "cannot be read" in refusal(folder).message


@pytest.mark.parametrize("data", [[], "x", {}, {"format_version": FORMAT_VERSION + 1}])
def test_refuses_another_format(folder: Path, data: object):
    (folder / FILE_NAME).write_text(json.dumps(data))
    assert "format version" in refusal(folder).message


@pytest.mark.parametrize("key", ["target", "precision", "inputs", "outputs", "files"])
def test_refuses_one_that_lacks_a_field(folder: Path, key: str):
    data = json.loads((folder / FILE_NAME).read_text())
    del data[key]
    (folder / FILE_NAME).write_text(json.dumps(data))
    assert "is not an artifact's manifest" in refusal(folder).message


WRONG_TYPES = {
    "target": [None, 1],
    "precision": [None],
    "inputs": [None, {}, ["x"], [{"name": "x", "dtype": 1, "shape": []}], [{"name": "x", "dtype": "float32"}]],
    "outputs": [[{"name": None, "dtype": "float32", "shape": []}], [{"name": "y", "dtype": "int8", "shape": [1.5]}]],
    "files": [None, [], {"model.bin": 1}],
    "settings": [None, [], {"threads": 1}],
    "versions": [None, [], {"runtime": None}],
    "device": [None],
    "runs_here": [None, "yes"],
    "pipeline": [[]],
    "details": [None, []],
    "source_sha256": [None],
    "verdicts": [None, [], {"execution": True}],
    "waived": [None, "execution", [1]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_TYPES.items() for value in values])
def test_refuses_a_field_of_another_type(folder: Path, key: str, value: object):
    data = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps({**data, key: value}))
    message = refusal(folder).message
    assert "is not an artifact's manifest" in message
    assert f"{key} cannot hold that" in message


def test_every_field_is_checked():
    assert set(WRONG_TYPES) == {entry.name for entry in dataclasses.fields(Manifest)} - {"format_version"}


def test_ignores_a_field_of_a_later_minor_version(folder: Path):
    data = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps({**data, "later": 1}))
    assert read_manifest(folder) == manifest_of(folder)


def test_refuses_a_changed_file_unless_told_not_to_look(folder: Path):
    (folder / "model.bin").write_bytes(b"weightt")
    assert "was changed after the build" in refusal(folder).message
    assert read_manifest(folder, verify_files=False) == dataclasses.replace(
        manifest_of(folder), files=read_manifest(folder, verify_files=False).files
    )


def test_refuses_a_missing_file(folder: Path):
    (folder / "sub" / "graph.xml").unlink()
    assert "lacks sub/graph.xml" in refusal(folder).message


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/../../outside"])
def test_refuses_a_file_outside_the_folder(folder: Path, name: str):
    (folder.parent / "outside").write_bytes(b"")
    write_manifest(folder, manifest_of(folder, files={name: "0" * 64}))
    assert "outside its folder" in refusal(folder).message


def test_refuses_a_link_out_of_the_folder(folder: Path):
    outside = folder.parent / "outside"
    outside.write_bytes(b"weights")
    (folder / "model.bin").unlink()
    (folder / "model.bin").symlink_to(outside)
    assert "outside its folder" in refusal(folder).message


def test_refuses_one_that_names_no_file(folder: Path):
    write_manifest(folder, manifest_of(folder, files={}))
    assert "names no file" in refusal(folder).message


def test_a_file_without_a_hash_is_not_given(folder: Path):
    (folder / "other.bin").write_bytes(b"")
    assert checked_file(folder, read_manifest(folder), "model.bin") == folder / "model.bin"
    with pytest.raises(ArtifactRefused, match=r"no hash of other\.bin"):
        checked_file(folder, read_manifest(folder), "other.bin")
