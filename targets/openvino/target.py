"""The OpenVINO target."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from passes.cleanup.deduplicate_initializers import DeduplicateInitializers
from passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.cleanup.fold_constants import FoldConstants
from passes.cleanup.fold_shapes import FoldShapes
from passes.cleanup.remove_identities import RemoveIdentities
from passes.errors import MissingDependency
from passes.expand.expand_attention import ExpandAttention
from passes.expand.expand_contrib import ExpandContrib
from passes.expand.unpack_projections import UnpackProjections
from passes.fusion.fuse_group_norm import FuseGroupNorm
from passes.pipeline import Pipeline, Repeat
from targets.base import Artifact, BuildOptions, Profile, Readiness, Runner
from targets.openvino.runtime import device_label, load_openvino, the_core
from targets.openvino.settings import TABLE, settings_from_text
from targets.settings import check_precision, label_from_settings, settings_from_table

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.capabilities import Capabilities
    from passes.errors import Blocker
    from targets.base import Array
    from targets.openvino.settings import Settings

LEGALISATION = Pipeline(
    (
        ExpandContrib(),
        FuseGroupNorm(groups=True),
        UnpackProjections(),
        ExpandAttention(),
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


class OpenVinoTarget:
    """OpenVINO IR on disk, run with an inference precision that is always stated."""

    name = "openvino"
    summary = "OpenVINO IR for the CPU or another device, its inference precision always explicit"

    def probe(self) -> Readiness:
        try:
            openvino = load_openvino()
        except MissingDependency as error:
            return Readiness(False, False, reason=error.message, fix=error.hint)
        versions = {"openvino": str(openvino.get_version())}
        try:
            core = the_core()
            devices = list(core.available_devices)
            label = ", ".join(f"{device}: {device_label(core, device)}" for device in devices)
        except Exception as error:  # a broken plug-in raises RuntimeError or worse; probing never does
            return Readiness(
                False, False, reason=f"OpenVINO does not start: {error}", fix="Install it again.", versions=versions
            )
        if not devices:
            return Readiness(
                True, False, reason="OpenVINO finds no device.", fix="Install a device plug-in.", versions=versions
            )
        return Readiness(True, True, versions=versions, device=label)

    def check(self, options: BuildOptions) -> None:
        check_precision(self.name, options.precision)
        _settings(options)

    def label(self, options: BuildOptions) -> str:
        return label_from_settings(options.precision, settings_from_table(self.name, options.settings, TABLE), TABLE)

    def capabilities(self, options: BuildOptions) -> Capabilities:
        from targets.openvino.capabilities import device_capabilities

        return device_capabilities(_settings(options))

    def pipeline(self, options: BuildOptions) -> Pipeline:
        """Return the legalisation: Attention is expanded to the form that the CPU plug-in compiles, then cleaned up."""
        return LEGALISATION

    def blockers(self, model: ir.Model, options: BuildOptions) -> tuple[Blocker, ...]:
        from targets.openvino.blockers import find_blockers

        load_openvino()
        return find_blockers(model, _settings(options), precision=options.precision, time_limit_s=options.time_limit_s)

    def build(self, model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
        from targets.openvino.build import build_artifact

        self.check(options)
        load_openvino()
        return build_artifact(model, out, options, settings=_settings(options))

    def open(self, artifact: Artifact, *, threads: int = 1) -> AbstractContextManager[Runner]:
        from targets.openvino.runner import open_artifact

        load_openvino()
        return open_artifact(artifact, threads=threads)

    def profile(self, artifact: Artifact, feeds: Mapping[str, Array], *, threads: int = 1) -> Profile:
        from targets.openvino.profile import profile_artifact

        load_openvino()
        return profile_artifact(artifact, feeds, threads=threads)


def _settings(options: BuildOptions) -> Settings:
    return settings_from_text(options.settings, precision=options.precision)
