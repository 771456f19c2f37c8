"""An artifact's engine made ready to run on this machine's GPU, or the reason why it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from passes.errors import ArtifactRefused, CannotRun
from passes.optional import require
from targets.base import Artifact
from targets.manifest import read_manifest
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
    read_manifest(artifact.path, verify_files=True)
    module = MODULES[backend]
    trt: Any = require(module, extra=EXTRAS[backend], need="The tensorrt target")
    if str(trt.__version__) != engine["version"]:
        raise ArtifactRefused(
            f"{engine['file']} was built by {module} {engine['version']}; {trt.__version__} is installed here.",
            hint=f"pip install '{module.replace('_', '-')}=={engine['version']}', or build the artifact again.",
        )
    plan = (artifact.path / engine["file"]).read_bytes()
    with open_runner(trt, plan, artifact.manifest.inputs, artifact.manifest.outputs) as runner:
        yield runner


def _fitting_engine(artifact: Artifact, gpu: Gpu | None) -> tuple[dict[str, Any], Backend]:
    engines = dict(artifact.manifest.details.get("engines", {}))
    if not engines:
        why = artifact.manifest.details.get("no_engine_because", "")
        raise CannotRun(
            f"{artifact.path} holds the TensorRT-ready ONNX and no engine" + (f": {why}." if why else "."),
            hint="Build with sm=89, or whichever compute capability the GPU has.",
        )
    built_for = [int(architecture) for architecture in engines]
    if gpu is None:
        raise CannotRun(
            f"The engine for {architectures_text(built_for)} was built ahead of time; this machine has no NVIDIA GPU, "
            "so it was not executed.",
            hint="Copy the folder to a machine with that GPU and run 'graphwright verify' there.",
        )
    if gpu.architecture not in built_for:
        raise ArtifactRefused(
            f"{artifact.path} has engines for {architectures_text(built_for)}; this machine has a {gpu}.",
            hint=f"Build again with sm={gpu.architecture}.",
        )
    return dict(engines[str(gpu.architecture)]), cast(Backend, artifact.manifest.settings["backend"])
