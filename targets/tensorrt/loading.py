"""An artifact's engine made ready to run on this machine's GPU, or the reason why it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from passes.errors import ArtifactRefused, CannotRun
from passes.optional import require
from targets.base import Artifact
from targets.manifest import checked_file, read_manifest
from targets.tensorrt.backend import EXTRAS, MODULES
from targets.tensorrt.device import Gpu, find_gpu
from targets.tensorrt.runner import TensorRtRunner, open_runner
from targets.tensorrt.settings import Backend, architectures_text


@contextmanager
def load_runner(artifact: Artifact) -> Iterator[TensorRtRunner]:
    """Yield a runner of the engine that fits this GPU.

    Raises CannotRun when there is no engine or no GPU, ArtifactRefused when a file was changed, no engine was built for
    this GPU or the TensorRT here is another version than the builder's, MissingDependency without the package.
    """
    engine, backend = _fitting_engine(artifact, find_gpu())
    plan = checked_file(artifact.path, read_manifest(artifact.path), engine["file"])
    module = MODULES[backend]
    trt: Any = require(module, extra=EXTRAS[backend], need="The tensorrt target")
    if str(trt.__version__) != engine["version"]:
        raise ArtifactRefused(
            f"{engine['file']} was built by {module} {engine['version']}; {trt.__version__} is installed here.",
            hint=f"pip install '{module.replace('_', '-')}=={engine['version']}', or build the artifact again.",
        )
    with open_runner(trt, plan.read_bytes(), artifact.manifest.inputs, artifact.manifest.outputs) as runner:
        yield runner


def _fitting_engine(artifact: Artifact, gpu: Gpu | None) -> tuple[dict[str, Any], Backend]:
    engines = _engines_of(artifact)
    if not engines:
        why = artifact.manifest.details.get("no_engine_because", "")
        raise CannotRun(
            "The artifact holds the TensorRT-ready ONNX and no engine" + (f": {why}." if why else "."),
            hint="Build with sm=89, or whichever compute capability the GPU has.",
        )
    built_for = list(engines)
    if gpu is None:
        raise CannotRun(
            f"The engine for {architectures_text(built_for)} was built ahead of time; this machine has no NVIDIA GPU, "
            "so it was not executed.",
            hint="Copy the folder to a machine with that GPU and run 'graphwright verify' there.",
        )
    if gpu.architecture not in built_for:
        raise ArtifactRefused(
            f"The artifact has engines for {architectures_text(built_for)}; this machine has a {gpu}.",
            hint=f"Build again with sm={gpu.architecture}.",
        )
    backend = artifact.manifest.settings.get("backend", "")
    if backend not in MODULES:
        raise ArtifactRefused(f"The artifact's backend '{backend}' is not known here.", hint="Build it again.")
    return engines[gpu.architecture], backend


def _engines_of(artifact: Artifact) -> dict[int, dict[str, Any]]:
    """Return the description of each engine by its compute capability, 89 for SM89."""
    engines = artifact.manifest.details.get("engines", {})
    try:
        found = {int(architecture): dict(described) for architecture, described in engines.items()}
        if not all(isinstance(described[key], str) for described in found.values() for key in ("file", "version")):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactRefused("The manifest does not say what its engines are.", hint="Build it again.") from error
    return found
