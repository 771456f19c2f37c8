"""Every pass by its name on the command line, and the default pipeline."""

from __future__ import annotations

from passes.base import Pass
from passes.cleanup.deduplicate_initializers import DeduplicateInitializers
from passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.cleanup.fold_branches import FoldBranches
from passes.cleanup.fold_constants import FoldConstants
from passes.cleanup.fold_index_arithmetic import FoldIndexArithmetic
from passes.cleanup.fold_shapes import FoldShapes
from passes.cleanup.merge_clips import MergeClips
from passes.cleanup.merge_pads import MergePads
from passes.cleanup.merge_reshapes import MergeReshapes
from passes.cleanup.merge_slices import MergeSlices
from passes.cleanup.remove_identities import RemoveIdentities
from passes.cleanup.simplify_algebra import SimplifyAlgebra
from passes.cleanup.upgrade_opset import UpgradeOpset
from passes.expand.expand_attention import ExpandAttention
from passes.expand.expand_functions import ExpandFunctions
from passes.expand.expand_sum import ExpandSum
from passes.expand.extract_pads import ExtractPads
from passes.expand.inline_functions import InlineFunctions
from passes.expand.materialize_broadcasts import MaterializeBroadcasts
from passes.fusion.fuse_activation import FuseActivation
from passes.fusion.fuse_attention import FuseAttention
from passes.fusion.fuse_channel_arithmetic import FuseChannelArithmetic
from passes.fusion.fuse_conv_batch_norm import FuseConvBatchNorm
from passes.fusion.fuse_einsum import FuseEinsum
from passes.fusion.fuse_gelu import FuseGelu
from passes.fusion.fuse_layer_norm import FuseLayerNorm
from passes.fusion.fuse_matmul_add import FuseMatmulAdd
from passes.fusion.fuse_rms_norm import FuseRmsNorm
from passes.fusion.fuse_rotary_embedding import FuseRotaryEmbedding
from passes.fusion.fuse_softmax import FuseSoftmax
from passes.fusion.fuse_sum import FuseSum
from passes.fusion.pack_qkv import PackQkv
from passes.fusion.simplify_recurrent import SimplifyRecurrent
from passes.fusion.unflatten_matmul import UnflattenMatmul
from passes.legalize.fuse_bias_gelu import FuseBiasGelu
from passes.legalize.fuse_conv_activation import FuseConvActivation
from passes.legalize.fuse_embedding_norm import FuseEmbeddingNorm
from passes.legalize.fuse_gemm_activation import FuseGemmActivation
from passes.legalize.fuse_matmul_scale import FuseMatmulScale
from passes.legalize.fuse_skip_norm import FuseSkipNorm
from passes.legalize.lower_attention import LowerAttention
from passes.legalize.lower_rotary_embedding import LowerRotaryEmbedding
from passes.pipeline import Pipeline, Repeat
from passes.precision.convert_float import ConvertBf16, ConvertFp16
from passes.quantize.static import QuantizeStatic


def _table(*kinds: type[Pass]) -> dict[str, type[Pass]]:
    table: dict[str, type[Pass]] = {}
    for kind in kinds:
        if kind.name in table:
            raise ValueError(f"two passes are called '{kind.name}'")
        table[kind.name] = kind
    return table


PASSES: dict[str, type[Pass]] = _table(
    ConvertBf16,
    ConvertFp16,
    DeduplicateInitializers,
    EliminateCommonSubexpressions,
    EliminateDeadCode,
    ExpandAttention,
    ExpandFunctions,
    ExpandSum,
    ExtractPads,
    FoldBranches,
    FoldConstants,
    FoldIndexArithmetic,
    FoldShapes,
    FuseActivation,
    FuseAttention,
    FuseBiasGelu,
    FuseChannelArithmetic,
    FuseConvActivation,
    FuseConvBatchNorm,
    FuseEinsum,
    FuseEmbeddingNorm,
    FuseGelu,
    FuseGemmActivation,
    FuseLayerNorm,
    FuseMatmulAdd,
    FuseMatmulScale,
    FuseRmsNorm,
    FuseRotaryEmbedding,
    FuseSkipNorm,
    FuseSoftmax,
    FuseSum,
    InlineFunctions,
    LowerAttention,
    LowerRotaryEmbedding,
    MaterializeBroadcasts,
    MergeClips,
    MergePads,
    MergeReshapes,
    MergeSlices,
    PackQkv,
    QuantizeStatic,
    RemoveIdentities,
    SimplifyAlgebra,
    SimplifyRecurrent,
    UnflattenMatmul,
    UpgradeOpset,
)


def default_pipeline() -> Pipeline:
    """Return the target-independent pipeline: clean up, raise to standard operators, clean up again."""
    cleanup = Repeat(
        (
            FoldConstants(),
            FoldShapes(),
            FoldBranches(),
            FoldIndexArithmetic(),
            RemoveIdentities(),
            MergeClips(),
            MergeReshapes(),
            MergePads(),
            MergeSlices(),
            DeduplicateInitializers(),
            EliminateCommonSubexpressions(),
        )
    )
    fusions = (
        FuseConvBatchNorm(),
        SimplifyRecurrent(),
        FuseActivation(),
        FuseGelu(),
        FuseLayerNorm(),
        FuseRmsNorm(),
        FuseSoftmax(),
        FuseRotaryEmbedding(),
        FuseChannelArithmetic(),
        FuseAttention(),
        FuseEinsum(),
        UnflattenMatmul(),
        FuseMatmulAdd(),
        FuseSum(),
    )
    last = Repeat((SimplifyAlgebra(), *cleanup.steps))  # after the fusions, which look for the longer forms
    dead = EliminateDeadCode()  # a dead reader of an inner value would stop a fusion
    return Pipeline((InlineFunctions(), UpgradeOpset(), cleanup, dead, *fusions, last, PackQkv(), dead))
