"""TensorRT: its ONNX always, engines ahead of time with tensorrt-rtx, engines that run where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from passes.cleanup.deduplicate_initializers import DeduplicateInitializers
from passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.cleanup.fold_constants import FoldConstants
from passes.cleanup.fold_shapes import FoldShapes
from passes.cleanup.remove_identities import RemoveIdentities
from passes.errors import Blocker, ModelBlocked, UsageError
from passes.expand.expand_attention import ExpandAttention
from passes.expand.expand_contrib import ExpandContrib
from passes.expand.expand_functions import ExpandFunctions
from passes.expand.materialize_broadcasts import MaterializeBroadcasts
from passes.fusion.fuse_group_norm import FuseGroupNorm
from passes.pipeline import Pipeline, Repeat
from targets.base import PRECISIONS, Artifact, BuildOptions, Readiness, Runner
from targets.tensorrt.artifact import write_artifact
from targets.tensorrt.backend import Package, architectures_of, find_package
from targets.tensorrt.blockers import find_blockers, precision_blockers
from targets.tensorrt.capabilities import ARCHITECTURES, capabilities_for
from targets.tensorrt.device import find_gpu
from targets.tensorrt.settings import architectures_text, settings_from_text

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.capabilities import Capabilities


LEGALISATION = Pipeline(
    (
        ExpandContrib(),
        FuseGroupNorm(groups=True),
        ExpandAttention(),
        ExpandFunctions(),
        MaterializeBroadcasts(),
        Repeat(
            (
                FoldConstants(),
                FoldShapes(),
                RemoveIdentities(),
                DeduplicateInitializers(),
                EliminateCommonSubexpressions(),
            )
        ),
        EliminateDeadCode(),
    )
)


@dataclass(frozen=True)
class TensorRtTarget:
    """NVIDIA TensorRT 11, strongly typed: precision is what the graph's types and Q/DQ nodes say."""

    name: ClassVar[str] = "tensorrt"
    summary: ClassVar[str] = (
        "NVIDIA TensorRT: ONNX that it takes, engines ahead of time for sm=75+80+86+89+120+121, run on an NVIDIA GPU"
    )

    def probe(self) -> Readiness:
        """Return what this machine can do: the ONNX can be made anywhere; never raises."""
        gpu = find_gpu()
        packages = {"tensorrt_rtx": find_package("rtx"), "tensorrt": find_package("full")}
        versions = {module: package.version for module, package in packages.items() if package.is_usable}
        reasons, fixes = [], []
        if not versions or (not packages["tensorrt_rtx"].is_usable and gpu is None):
            reasons.append(f"no engine can be built ({_problems(packages)}), only the TensorRT-ready ONNX")
            fixes.append("pip install 'graphwright[tensorrt-rtx]'")
        elif broken := {name: found for name, found in packages.items() if found.problem and not found.is_absent}:
            reasons.append(_problems(broken))
        if gpu is None:
            reasons.append("this machine has no NVIDIA GPU: engines are built ahead of time and not run")
            fixes.append("run the artifact on a machine with the GPU that it was built for")
        return Readiness(
            can_build=True,
            can_run=gpu is not None and bool(versions),
            reason="; ".join(reasons),
            fix="; ".join(fixes),
            versions=versions,
            device=str(gpu) if gpu else "",
        )

    def check(self, options: BuildOptions) -> None:
        """Raise UsageError for an unknown setting, or a precision that a named compute capability lacks."""
        settings = settings_from_text(options.settings)
        known = frozenset().union(*ARCHITECTURES.values())
        if options.precision not in known:
            has = ", ".join(precision for precision in PRECISIONS if precision in known)
            raise UsageError(f"The tensorrt target has no precision '{options.precision}'.", hint=f"It has {has}.")
        unfit = [sm for sm in settings.architectures if options.precision not in capabilities_for([sm]).precisions]
        if unfit:
            raise UsageError(
                f"{architectures_text(unfit)} does not compute in {options.precision}.",
                hint="Leave it out of sm=, or build it by itself in fp16.",
            )

    def label(self, options: BuildOptions) -> str:
        """Return "sm89-int8", or "onnx-int8" when no compute capability is named and there is no GPU."""
        architectures = architectures_of(settings_from_text(options.settings))
        what = f"sm{'+'.join(map(str, architectures))}" if architectures else "onnx"
        return f"{what}-{options.precision}"

    def capabilities(self, options: BuildOptions) -> Capabilities:
        """Return what TensorRT takes on every compute capability of the build."""
        return capabilities_for(architectures_of(settings_from_text(options.settings)))

    def pipeline(self, options: BuildOptions) -> Pipeline:
        """Return the legalisation: Attention and what else has no kernel is expanded, and short rotary caches are."""
        return LEGALISATION

    def blockers(self, model: ir.Model, options: BuildOptions) -> tuple[Blocker, ...]:
        """Return every reason why the legalised graph can't be built; needs no TensorRT package."""
        architectures = architectures_of(settings_from_text(options.settings))
        return (*find_blockers(model, architectures), *precision_blockers(model, options.precision))

    def build(self, model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
        """Write model.onnx, one engine.smNN.plan a compute capability, and the manifest.

        The engines are built in processes of their own. Raises ModelBlocked with every node that the parser refuses,
        BuildFailed when the builder refuses, crashes or runs past `options.time_limit_s`.
        """
        blockers = self.blockers(model, options)
        if blockers:
            raise ModelBlocked(self.name, blockers)
        return write_artifact(model, out, options)

    def open(self, artifact: Artifact, *, threads: int = 1) -> AbstractContextManager[Runner]:
        """Load the engine for this machine's GPU; CannotRun when it has none, ArtifactRefused when none fits."""
        return _opened(artifact)


@contextmanager
def _opened(artifact: Artifact) -> Iterator[Runner]:
    from targets.tensorrt.loading import load_runner

    with load_runner(artifact) as runner:
        yield runner


def _problems(packages: dict[str, Package]) -> str:
    return ", ".join(package.problem for package in packages.values() if package.problem)
