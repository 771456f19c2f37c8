"""The ONNX Runtime target."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from passes.errors import MissingDependency
from passes.optional import require
from targets.base import Artifact, BuildOptions, Profile, Readiness, Runner
from targets.onnxruntime.settings import PROVIDERS, TABLE, settings_from_text
from targets.processor import processor_label
from targets.settings import check_precision, label_from_settings, settings_from_table

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.capabilities import Capabilities
    from passes.errors import Blocker
    from passes.pipeline import Pipeline
    from targets.base import Array


class OnnxRuntimeTarget:
    """ONNX Runtime on an explicit execution provider, the CPU's unless told otherwise."""

    name = "onnxruntime"
    summary = "ONNX Runtime on the CPU, or on an execution provider that is named"

    def probe(self) -> Readiness:
        try:
            runtime = _require()
        except MissingDependency as error:
            return Readiness(False, False, reason=error.message, fix=error.hint)
        return Readiness(True, True, versions={"onnxruntime": str(runtime.__version__)}, device=processor_label())

    def check(self, options: BuildOptions) -> None:
        check_precision(self.name, options.precision)
        settings_from_text(options.settings)

    def label(self, options: BuildOptions) -> str:
        return label_from_settings(options.precision, settings_from_table(self.name, options.settings, TABLE), TABLE)

    def capabilities(self, options: BuildOptions) -> Capabilities:
        from targets.onnxruntime.capabilities import provider_capabilities

        settings = settings_from_text(options.settings)
        return provider_capabilities(PROVIDERS[settings.provider], is_fastest=settings.operators == "fastest")

    def pipeline(self, options: BuildOptions) -> Pipeline:
        from passes.cleanup.deduplicate_initializers import DeduplicateInitializers
        from passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
        from passes.cleanup.eliminate_dead_code import EliminateDeadCode
        from passes.cleanup.fold_constants import FoldConstants
        from passes.cleanup.fold_shapes import FoldShapes
        from passes.cleanup.push_transposes import PushTransposes
        from passes.cleanup.remove_identities import RemoveIdentities
        from passes.expand.expand_functions import ExpandFunctions
        from passes.expand.expand_group_normalization import ExpandGroupNormalization
        from passes.expand.extract_pads import ExtractPads
        from passes.expand.materialize_broadcasts import MaterializeBroadcasts
        from passes.legalize.fuse_bias_gelu import FuseBiasGelu
        from passes.legalize.fuse_conv_activation import FuseConvActivation
        from passes.legalize.fuse_embedding_norm import FuseEmbeddingNorm
        from passes.legalize.fuse_gemm_activation import FuseGemmActivation
        from passes.legalize.fuse_matmul_scale import FuseMatmulScale
        from passes.legalize.fuse_skip_norm import FuseSkipNorm
        from passes.legalize.fuse_weighted_sum import FuseWeightedSum
        from passes.legalize.lower_attention import LowerAttention
        from passes.legalize.lower_block_weights import LowerBlockWeights
        from passes.legalize.lower_rotary_embedding import LowerRotaryEmbedding
        from passes.pipeline import Pipeline, Repeat

        own = (
            LowerBlockWeights(accuracy_level=settings_from_text(options.settings).accuracy_level),
            LowerAttention(),
            LowerRotaryEmbedding(),
            FuseEmbeddingNorm(),
            FuseSkipNorm(),
            FuseBiasGelu(),
            FuseWeightedSum(),
            ExtractPads(),
            FuseConvActivation(),
            FuseGemmActivation(),
        )
        expanded = (ExpandGroupNormalization(), ExpandFunctions(), MaterializeBroadcasts())
        # the bodies that an operator is expanded to hold constants, casts and identities, and matrix products to fuse
        cleanup = (PushTransposes(), FoldConstants(), FoldShapes(), RemoveIdentities(), DeduplicateInitializers())
        tidied = Repeat((*cleanup, EliminateCommonSubexpressions()))
        return Pipeline((*own, *expanded, tidied, FuseMatmulScale(), EliminateDeadCode()))

    def blockers(self, model: ir.Model, options: BuildOptions) -> tuple[Blocker, ...]:
        from targets.onnxruntime.blockers import find_blockers

        _require()
        return find_blockers(model, settings_from_text(options.settings), precision=options.precision)

    def build(self, model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
        from targets.onnxruntime.build import build_artifact

        self.check(options)
        _require()
        return build_artifact(model, out, options, settings=settings_from_text(options.settings))

    def open(self, artifact: Artifact, *, threads: int = 1) -> AbstractContextManager[Runner]:
        from targets.onnxruntime.runner import open_artifact

        _require()
        return open_artifact(artifact, threads=threads)

    def profile(self, artifact: Artifact, feeds: Mapping[str, Array], *, threads: int = 1) -> Profile:
        from targets.onnxruntime.profile import profile_artifact

        _require()
        return profile_artifact(artifact, feeds, threads=threads)


def _require() -> ModuleType:
    return require("onnxruntime", extra="", need="The onnxruntime target")
