"""A table of com.microsoft kernels, and graphs with constants and rewrites for tests of the legalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from passes.base import Context, Pass, PassResult
from passes.capabilities import PORTABLE, Capabilities
from passes.pipeline import Pipeline
from passes.sample_inputs import generated_inputs
from tests.support.rewriting import rewrite

OPERATORS = (
    "Attention",
    "BiasGelu",
    "EmbedLayerNormalization",
    "FastGelu",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "MultiHeadAttention",
    "QuickGelu",
    "RotaryEmbedding",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)
CONTRIB = Capabilities(
    name="contrib",
    opset_limit=23,
    kernels=frozenset(f"com.microsoft::{name}" for name in OPERATORS),
    kernel_types={f"com.microsoft::{name}": frozenset({"FLOAT"}) for name in OPERATORS},
)
"""A runtime with these kernels for float32 alone."""


def legalise(
    model: ir.Model, step: Pass, *, feeds: tuple[Mapping[str, np.ndarray], ...] | None = None
) -> tuple[ir.Model, PassResult]:
    """Return what the pass makes of the model, after checking numbers, fixed point, types, and silence elsewhere.

    The outputs are the standard graph's; the rewritten graph passes once more unchanged; every value that is read has a
    type; a runtime without the kernels gets the graph as it was.
    """
    after, result = rewrite(model, step, capabilities=CONTRIB, feeds=feeds or generated_inputs(model))
    again, second = rewrite(after, step, capabilities=CONTRIB, feeds=feeds or generated_inputs(model))
    assert not second.applied
    assert ir.to_onnx_text(again) == ir.to_onnx_text(after)
    assert all(value.type is not None for node in after.graph for value in node.outputs if value.name)
    assert ("com.microsoft" in after.opset_imports) == bool(result.applied)
    same, elsewhere = rewrite(model, step, capabilities=PORTABLE)
    assert elsewhere.applied == elsewhere.refused == ()
    assert ir.to_onnx_text(same) == ir.to_onnx_text(model)
    return after, result


def refused(model: ir.Model, step: Pass) -> PassResult:
    """Return the pass's result on a graph that it leaves alone and that ONNX Runtime may not run."""
    after, (result,) = Pipeline((step,)).run(model, context=Context(CONTRIB))
    assert not result.applied
    assert forms(after) == forms(model)
    return result


def forms(model: ir.Model) -> list[str]:
    """Return each node of the main graph as "Operator(inputs)", with _ for an input that is left out."""
    return [
        f"{node.op_type}({', '.join(str(value.name) if value is not None else '_' for value in node.inputs)})"
        for node in model.graph
    ]


def attributes(model: ir.Model, op_type: str) -> dict[str, Any]:
    """Return the attributes of the first node of this operator."""
    node = next(node for node in model.graph if node.op_type == op_type)
    return {name: attribute.value for name, attribute in node.attributes.items()}
