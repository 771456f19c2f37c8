"""What an artifact says about itself: all that is needed to load, audit or rebuild it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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

    Raises ArtifactRefused when it is missing, unreadable, of another format version, names a file outside the folder,
    or a file is missing or was changed.
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
    try:
        values = {key: value for key, value in data.items() if key in known}
        for key in ("inputs", "outputs"):
            values[key] = tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in values[key])
        values["waived"] = tuple(values.get("waived", ()))
        return Manifest(**values)
    except (KeyError, TypeError) as error:
        raise ArtifactRefused(f"{path} is not an artifact's manifest: {error}", hint="Build it again.") from error


def _verify_files(folder: Path, manifest: Manifest) -> None:
    root = folder.resolve()
    for name, expected in manifest.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise ArtifactRefused(f"The manifest of {folder} names a file outside its folder: {name}")
        if not path.is_file():
            raise ArtifactRefused(f"{folder} lacks {name}.", hint="Copy the whole folder, or build it again.")
        if sha256_of(path) != expected:
            raise ArtifactRefused(f"{folder / name} was changed after the build.", hint="Build the artifact again.")
