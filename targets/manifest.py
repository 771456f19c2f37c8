"""What an artifact says about itself: all that is needed to load, audit or rebuild it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from passes.errors import ArtifactRefused
from targets.base import TensorSpec

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json.

    files: relative path -> SHA-256 of every file of the artifact.
    settings: all that fixes the result: the inference precision, compute capability, topology, threads...
    details: what the runtime's compiler said: memory in bytes, FLOP, per-node precision, int8 operators planned.
    runs_here: False for an artifact built ahead of time for a device that the building machine does not have.
    pipeline: the text of all passes that made the lowered graph, in order.
    source_sha256, verdicts, waived: filled in by the build.
    """

    target: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    runs_here: bool = True
    pipeline: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    source_sha256: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    waived: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def hashes_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return relative name -> SHA-256 for files of `folder`, sorted by name."""
    return {name: sha256_of(folder / name) for name in sorted(names)}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json: sorted keys, no timestamp, so that equal artifacts have equal bytes."""
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, verify_files: bool = True) -> Manifest:
    """Return the manifest of an artifact folder.

    Raises ArtifactRefused when it is missing, unreadable, of another format version, names no file or one outside the
    folder, or a file is missing or was changed.
    """
    path = folder / FILE_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactRefused(
            f"{folder} holds no {FILE_NAME}.", hint="Give the folder that 'graphwright build' made."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactRefused(f"{path} cannot be read: {error}", hint="Build the artifact again.") from error
    manifest = _manifest_from_json(path, data)
    if verify_files:
        _verify_files(folder, manifest)
    return manifest


def _manifest_from_json(path: Path, data: object) -> Manifest:
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        found = data.get("format_version") if isinstance(data, dict) else None
        raise ArtifactRefused(
            f"{path} has format version {found}; this graphwright reads {FORMAT_VERSION}.",
            hint="Build the artifact again with this version.",
        )
    known = {entry.name for entry in fields(Manifest)}
    values = {key: value for key, value in data.items() if key in known}
    lacking = [key for key in ("target", "precision", "inputs", "outputs", "files") if key not in values]
    if lacking or (unfit := [key for key, is_fit in _FIELDS.items() if key in values and not is_fit(values[key])]):
        what = f"it lacks {', '.join(lacking)}" if lacking else f"{', '.join(unfit)} cannot hold that"
        raise ArtifactRefused(f"{path} is not an artifact's manifest: {what}.", hint="Build it again.")
    for key in ("inputs", "outputs"):
        values[key] = tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in values[key])
    values["waived"] = tuple(values.get("waived", ()))
    return Manifest(**values)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_specs(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_spec, value))


def _is_spec(value: object) -> bool:
    if not isinstance(value, dict) or not (_is_text(value.get("name")) and _is_text(value.get("dtype"))):
        return False
    shape = value.get("shape")
    return isinstance(shape, list) and all(size is None or type(size) in (int, str) for size in shape)


# Field -> whether what JSON gave for it can be it.
_FIELDS: Mapping[str, Callable[[object], bool]] = {
    "target": _is_text,
    "precision": _is_text,
    "inputs": _is_specs,
    "outputs": _is_specs,
    "files": _is_text_by_name,
    "settings": _is_text_by_name,
    "versions": _is_text_by_name,
    "device": _is_text,
    "runs_here": lambda value: isinstance(value, bool),
    "pipeline": _is_text,
    "details": lambda value: isinstance(value, dict),
    "source_sha256": _is_text,
    "verdicts": _is_text_by_name,
    "waived": _is_texts,
}


def checked_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of a file that the manifest has the hash of; raises ArtifactRefused for any other file."""
    if name not in manifest.files:
        raise ArtifactRefused(
            f"The manifest of the artifact has no hash of {name}, so it is not loaded.",
            hint="Build the artifact again.",
        )
    return folder / name


def _verify_files(folder: Path, manifest: Manifest) -> None:
    root = folder.resolve()
    if not manifest.files:
        raise ArtifactRefused(f"The manifest of {folder} names no file.", hint="Build the artifact again.")
    for name, expected in manifest.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise ArtifactRefused(f"The manifest of {folder} names a file outside its folder: {name}")
        if not path.is_file():
            raise ArtifactRefused(f"{folder} lacks {name}.", hint="Copy the whole folder, or build it again.")
        if sha256_of(path) != expected:
            raise ArtifactRefused(f"{folder / name} was changed after the build.", hint="Build the artifact again.")
