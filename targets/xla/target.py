"""The xla target: ONNX to StableHLO through jax, run on this machine or compiled ahead of time for a TPU."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from targets.base import Artifact, BuildOptions, Readiness, Runner

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.capabilities import Capabilities
    from passes.errors import Blocker
    from passes.pipeline import Pipeline


class XlaTarget:
    """XLA through jax. Settings: topology, shapes, matmul_precision (see `targets.xla.settings.TABLE`)."""

    name = "xla"
    summary = "XLA: StableHLO with symbolic shapes, run on CPU, or compiled ahead of time for a TPU (topology=v5e:2x2)"

    def probe(self) -> Readiness:
        """Return what this machine can do; jax is imported to find out whether it works."""
        from targets.processor import processor_label
        from targets.xla.backend import has_tpu, versions

        found = versions()
        for module, extra in (("jax", "xla"), ("flatbuffers", "xla")):
            if module == "jax" and "jax" not in found:
                return Readiness(False, False, "jax is not installed.", "pip install 'graphwright[xla]'", found)
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                absent = error.name == module
                reason = f"{module} is not installed." if absent else f"{module} is installed but broken: {error}"
                return Readiness(False, False, reason, f"pip install 'graphwright[{extra}]'", found)
            except Exception as error:  # a broken package may fail in any way; probe never raises
                return Readiness(
                    False, False, f"{module} is installed but broken: {error}", f"Reinstall {module}.", found
                )
        reason, fix = "", ""
        if "libtpu" not in found:
            reason, fix = "libtpu is not installed: no topology can be compiled for.", "pip install 'graphwright[tpu]'"
        device = "tpu" if has_tpu() else processor_label()
        return Readiness(True, True, reason, fix, found, device)

    def check(self, options: BuildOptions) -> None:
        """Raise UsageError for an unknown setting, precision or topology, with those that are known."""
        from targets.xla.settings import settings_from

        settings_from(options)

    def label(self, options: BuildOptions) -> str:
        """Return "fp32", "int8-fixed", "v5e-2x2-bf16"."""
        from targets.xla.settings import settings_from

        return settings_from(options).label

    def capabilities(self, options: BuildOptions) -> Capabilities:
        from targets.xla.capabilities import capabilities_of
        from targets.xla.settings import settings_from

        return capabilities_of(settings_from(options))

    def pipeline(self, options: BuildOptions) -> Pipeline:
        """Return what takes ONNX Runtime's operators apart: the lowering takes the raised ones, and casts, itself."""
        from passes.cleanup.eliminate_dead_code import EliminateDeadCode
        from passes.expand.expand_contrib import ExpandContrib
        from passes.fusion.fuse_group_norm import FuseGroupNorm
        from passes.pipeline import Pipeline

        return Pipeline((ExpandContrib(), FuseGroupNorm(groups=True), EliminateDeadCode()))

    def blockers(self, model: ir.Model, options: BuildOptions) -> tuple[Blocker, ...]:
        """Return every type, operator and data-dependent shape that cannot be lowered."""
        from targets.xla.blockers import blockers_of

        return blockers_of(model, options)

    def build(self, model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
        """Write program.jax_export, weights.safetensors and the manifest; with a topology, compile for it too."""
        from targets.xla.build import build_artifact

        return build_artifact(model, out, options)

    def open(self, artifact: Artifact, *, threads: int = 1) -> AbstractContextManager[Runner]:
        """Load the artifact; each set of input shapes is compiled on its first call."""
        from targets.xla.runner import open_artifact

        return open_artifact(artifact, threads)
