"""Find the artifacts under a folder."""

from __future__ import annotations

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
    return tuple(Artifact(path.parent, read_manifest(path.parent)) for path in manifests)


def is_build_manifest(path: Path) -> bool:
    """Return whether a manifest.json describes a whole build."""
    import json

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("kind") == BUILD_FORMAT
