"""Every pass by its name on the command line, and the default pipeline."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field

from passes.base import Pass
from passes.pipeline import Pipeline, Repeat

_PLACES = {
    "convert-bf16": "passes.precision.convert_float:ConvertBf16",
    "convert-fp16": "passes.precision.convert_float:ConvertFp16",
    "deduplicate-initializers": "passes.cleanup.deduplicate_initializers:DeduplicateInitializers",
    "eliminate-common-subexpressions": "passes.cleanup.eliminate_common_subexpressions:EliminateCommonSubexpressions",
    "eliminate-dead-code": "passes.cleanup.eliminate_dead_code:EliminateDeadCode",
    "expand-attention": "passes.expand.expand_attention:ExpandAttention",
    "expand-contrib": "passes.expand.expand_contrib:ExpandContrib",
    "expand-functions": "passes.expand.expand_functions:ExpandFunctions",
    "expand-group-normalization": "passes.expand.expand_group_normalization:ExpandGroupNormalization",
    "expand-sum": "passes.expand.expand_sum:ExpandSum",
    "extract-pads": "passes.expand.extract_pads:ExtractPads",
    "fold-branches": "passes.cleanup.fold_branches:FoldBranches",
    "fold-constants": "passes.cleanup.fold_constants:FoldConstants",
    "fold-index-arithmetic": "passes.cleanup.fold_index_arithmetic:FoldIndexArithmetic",
    "fold-loops": "passes.cleanup.fold_loops:FoldLoops",
    "fold-shapes": "passes.cleanup.fold_shapes:FoldShapes",
    "fuse-activation": "passes.fusion.fuse_activation:FuseActivation",
    "fuse-attention": "passes.fusion.fuse_attention:FuseAttention",
    "fuse-bias-gelu": "passes.legalize.fuse_bias_gelu:FuseBiasGelu",
    "fuse-channel-arithmetic": "passes.fusion.fuse_channel_arithmetic:FuseChannelArithmetic",
    "fuse-conv-activation": "passes.legalize.fuse_conv_activation:FuseConvActivation",
    "fuse-conv-batch-norm": "passes.fusion.fuse_conv_batch_norm:FuseConvBatchNorm",
    "fuse-einsum": "passes.fusion.fuse_einsum:FuseEinsum",
    "fuse-embedding-norm": "passes.legalize.fuse_embedding_norm:FuseEmbeddingNorm",
    "fuse-gelu": "passes.fusion.fuse_gelu:FuseGelu",
    "fuse-gemm-activation": "passes.legalize.fuse_gemm_activation:FuseGemmActivation",
    "fuse-group-norm": "passes.fusion.fuse_group_norm:FuseGroupNorm",
    "fuse-layer-norm": "passes.fusion.fuse_layer_norm:FuseLayerNorm",
    "fuse-matmul-add": "passes.fusion.fuse_matmul_add:FuseMatmulAdd",
    "fuse-matmul-scale": "passes.legalize.fuse_matmul_scale:FuseMatmulScale",
    "fuse-rms-norm": "passes.fusion.fuse_rms_norm:FuseRmsNorm",
    "fuse-rotary-embedding": "passes.fusion.fuse_rotary_embedding:FuseRotaryEmbedding",
    "fuse-skip-norm": "passes.legalize.fuse_skip_norm:FuseSkipNorm",
    "fuse-softmax": "passes.fusion.fuse_softmax:FuseSoftmax",
    "fuse-sum": "passes.fusion.fuse_sum:FuseSum",
    "fuse-weighted-sum": "passes.legalize.fuse_weighted_sum:FuseWeightedSum",
    "inline-functions": "passes.expand.inline_functions:InlineFunctions",
    "lower-attention": "passes.legalize.lower_attention:LowerAttention",
    "lower-block-weights": "passes.legalize.lower_block_weights:LowerBlockWeights",
    "lower-rotary-embedding": "passes.legalize.lower_rotary_embedding:LowerRotaryEmbedding",
    "materialize-broadcasts": "passes.expand.materialize_broadcasts:MaterializeBroadcasts",
    "merge-clips": "passes.cleanup.merge_clips:MergeClips",
    "merge-pads": "passes.cleanup.merge_pads:MergePads",
    "merge-reshapes": "passes.cleanup.merge_reshapes:MergeReshapes",
    "merge-slices": "passes.cleanup.merge_slices:MergeSlices",
    "pack-gate-up": "passes.fusion.pack_gate_up:PackGateUp",
    "pack-qkv": "passes.fusion.pack_qkv:PackQkv",
    "push-transposes": "passes.cleanup.push_transposes:PushTransposes",
    "quantize-dynamic": "passes.quantize.dynamic:QuantizeDynamic",
    "quantize-fp8": "passes.quantize.fp8:QuantizeFp8",
    "quantize-static": "passes.quantize.static:QuantizeStatic",
    "quantize-weights": "passes.quantize.weight_only.quantize_weights:QuantizeWeights",
    "remove-identities": "passes.cleanup.remove_identities:RemoveIdentities",
    "simplify-algebra": "passes.cleanup.simplify_algebra:SimplifyAlgebra",
    "simplify-recurrent": "passes.fusion.simplify_recurrent:SimplifyRecurrent",
    "unflatten-matmul": "passes.fusion.unflatten_matmul:UnflattenMatmul",
    "unpack-projections": "passes.expand.unpack_projections:UnpackProjections",
    "upgrade-opset": "passes.cleanup.upgrade_opset:UpgradeOpset",
}
"""Where each pass lies, as module:class. A test holds that each is there and has this name."""


@dataclass(frozen=True, slots=True)
class Catalogue(MutableMapping[str, type[Pass]]):
    """Pass classes by name, each imported when it is first asked for: half of them run for one target only."""

    places: dict[str, str]
    _loaded: dict[str, type[Pass]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> type[Pass]:
        if name not in self._loaded:
            module, _, kind = self.places[name].partition(":")
            found: type[Pass] = getattr(importlib.import_module(module), kind)
            self._loaded[name] = found
        return self._loaded[name]

    def __setitem__(self, name: str, kind: type[Pass]) -> None:
        self.places[name] = f"{kind.__module__}:{kind.__qualname__}"
        self._loaded[name] = kind

    def __delitem__(self, name: str) -> None:
        del self.places[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


PASSES = Catalogue(_PLACES)

_CLEANUP = (
    "fold-constants",
    "fold-shapes",
    "fold-branches",
    "fold-loops",
    "fold-index-arithmetic",
    "remove-identities",
    "merge-clips",
    "merge-reshapes",
    "merge-pads",
    "merge-slices",
    "deduplicate-initializers",
    "eliminate-common-subexpressions",
)

_FUSIONS = (
    "fuse-conv-batch-norm",
    "simplify-recurrent",
    "fuse-activation",
    "fuse-gelu",
    "fuse-group-norm",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-softmax",
    "fuse-rotary-embedding",
    "fuse-channel-arithmetic",
    "fuse-attention",
    "fuse-einsum",
    "unflatten-matmul",
    "fuse-matmul-add",
    "fuse-sum",
)


def default_pipeline() -> Pipeline:
    """Return the target-independent pipeline: clean up, raise to standard operators, clean up again."""
    cleanup = tuple([PASSES[name]() for name in _CLEANUP])
    fusions = [PASSES[name]() for name in _FUSIONS]
    # what is late comes after the fusions, which look for the longer forms; what one fusion makes, another may need
    late = (PASSES["simplify-algebra"](), PASSES["push-transposes"]())
    raised = Repeat((*fusions, *late, *cleanup))
    dead = PASSES["eliminate-dead-code"]()  # a dead reader of an inner value would stop a fusion
    first = (PASSES["inline-functions"](), PASSES["upgrade-opset"]())
    return Pipeline((*first, Repeat(cleanup), dead, raised, PASSES["pack-qkv"](), dead))
