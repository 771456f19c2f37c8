"""Running an ONNX Runtime artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import ArtifactRefused, CannotRun, UsageError
from targets.feeds import check_feeds, plain_text
from targets.manifest import checked_file, read_manifest
from targets.onnxruntime.blockers import cause_from_error
from targets.onnxruntime.build import MODEL_FILE
from targets.onnxruntime.session import open_session
from targets.onnxruntime.settings import TABLE, session_options, settings_from_text

if TYPE_CHECKING:
    from targets.base import Array, Artifact, Runner, TensorSpec


@dataclass(slots=True)
class OnnxRuntimeRunner:
    """A loaded session; every call returns arrays of its own."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    session: Any

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(feeds, self.inputs)
        names = [spec.name for spec in self.outputs]
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        try:
            results = self.session.run(names, arrays)
        except Exception as error:  # the feeds fit the specs, so it is a size that the graph does not take
            raise UsageError(
                f"ONNX Runtime does not run the model on these inputs: {cause_from_error(error)}",
                hint="Check whether the graph takes these sizes: a traced size may be fixed inside it.",
            ) from error
        return {name: plain_text(array) for name, array in zip(names, results, strict=True)}


@contextmanager
def open_artifact(artifact: Artifact, *, threads: int) -> Iterator[Runner]:
    """Yield the runner of an artifact whose files are as they were built.

    Raises ArtifactRefused for changed files or another target's artifact, CannotRun without the execution provider.
    """
    manifest = read_manifest(artifact.path)
    if manifest.target != "onnxruntime":
        raise ArtifactRefused(f"The artifact is of '{manifest.target}', not of 'onnxruntime'.")
    try:
        settings = settings_from_text({key: manifest.settings[key] for key in TABLE})
    except (KeyError, UsageError) as error:
        raise ArtifactRefused(f"The settings of the artifact are not known here: {error}") from error
    for file in artifact.path.glob(MODEL_FILE + "*"):  # the graph and its external data
        checked_file(artifact.path, manifest, file.name)
    model = checked_file(artifact.path, manifest, MODEL_FILE)
    try:
        session = open_session(model, settings, options=session_options(settings, threads=threads))
    except CannotRun:
        raise
    except Exception as error:  # the runtime raises a dozen classes without a common base
        built = manifest.versions.get("onnxruntime", "unknown")
        raise ArtifactRefused(
            f"ONNX Runtime does not load the artifact: {cause_from_error(error).replace(f'{artifact.path}/', '')}",
            hint=f"It was built with ONNX Runtime {built}.",
        ) from error
    yield OnnxRuntimeRunner(manifest.inputs, manifest.outputs, session)
