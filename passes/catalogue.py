"""Every pass by its name on the command line, and the default pipeline."""

from __future__ import annotations

from passes.base import Pass
from passes.cleanup.deduplicate_initializers import DeduplicateInitializers
from passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.cleanup.fold_constants import FoldConstants
from passes.cleanup.fold_shapes import FoldShapes
from passes.cleanup.merge_reshapes import MergeReshapes
from passes.cleanup.remove_identities import RemoveIdentities
from passes.cleanup.upgrade_opset import UpgradeOpset
from passes.expand.materialize_broadcasts import MaterializeBroadcasts
from passes.fusion.fuse_attention import FuseAttention
from passes.pipeline import Pipeline, Repeat


def _table(*kinds: type[Pass]) -> dict[str, type[Pass]]:
    table: dict[str, type[Pass]] = {}
    for kind in kinds:
        if kind.name in table:
            raise ValueError(f"two passes are called '{kind.name}'")
        table[kind.name] = kind
    return table


PASSES: dict[str, type[Pass]] = _table(
    DeduplicateInitializers,
    EliminateCommonSubexpressions,
    EliminateDeadCode,
    FoldConstants,
    FoldShapes,
    MergeReshapes,
    FuseAttention,
    MaterializeBroadcasts,
    RemoveIdentities,
    UpgradeOpset,
)


def default_pipeline() -> Pipeline:
    """Return the target-independent pipeline: clean up, raise to standard operators, clean up again."""
    cleanup = Repeat(
        (FoldConstants(), FoldShapes(), RemoveIdentities(), MergeReshapes(), EliminateCommonSubexpressions())
    )
    return Pipeline((UpgradeOpset(), DeduplicateInitializers(), cleanup, FuseAttention(), cleanup, EliminateDeadCode(), DeduplicateInitializers()))
