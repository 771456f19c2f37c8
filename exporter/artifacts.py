"""Find the artifacts under a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from passes.errors import ArtifactRefused
from targets.base import Artifact
from targets.manifest import FILE_NAME, read_manifest

BUILD_FORMAT = "graphwright-build"
"""The value of "kind" in the manifest of a whole build, which is not an artifact itself."""


def find_artifacts(folder: Path) -> tuple[Artifact, ...]:
    """Return every artifact in `folder` (itself one, a target's folder, or a whole build), sorted by path.

    Raises ArtifactRefused when there is none, or one was changed after its build.
    """
    if not folder.is_dir():
        raise ArtifactRefused(f"There is no folder {folder}.", hint="Give the folder that 'graphwright build' made.")
    manifests = [path for path in sorted(folder.rglob(FILE_NAME)) if not is_build_manifest(path)]
    if not manifests:
        raise ArtifactRefused(
            f"There is no artifact in {folder}.", hint="Give the folder that 'graphwright build' made."
        )
    _check_none_missing(folder, {path.parent for path in manifests})
    return tuple(Artifact(path.parent, read_manifest(path.parent)) for path in manifests)


def _check_none_missing(folder: Path, found: Collection[Path]) -> None:
    """Raise ArtifactRefused when a build under `folder` lists an artifact that is not there any more."""
    for path in sorted(folder.rglob(FILE_NAME)):
        for name in built_folders(path):
            if path.parent / name not in found:
                raise ArtifactRefused(
                    f"{path.parent} lists the artifact {name}, which is missing.",
                    hint="Copy the whole folder, build it again, or name one artifact's folder.",
                )


def built_folders(path: Path) -> tuple[str, ...]:
    """Return the artifact folders that a build's manifest lists; none for a manifest of another kind."""
    import json

    if not is_build_manifest(path):
        return ()
    listed = json.loads(path.read_text(encoding="utf-8")).get("artifacts", {})
    entries = listed.values() if isinstance(listed, dict) else ()
    return tuple(entry["path"] for entry in entries if isinstance(entry, dict) and entry.get("path"))


def is_build_manifest(path: Path) -> bool:
    """Return whether a manifest.json describes a whole build."""
    import json

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("kind") == BUILD_FORMAT
