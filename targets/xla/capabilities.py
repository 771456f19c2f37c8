"""What XLA takes, as data."""

from __future__ import annotations

from passes.capabilities import WEIGHT_ONLY, Capabilities, QuantizationSupport
from targets.xla.lowering import registry
from targets.xla.settings import Settings

OPSET_LIMIT = 26
OPSET_MINIMUM = 9

QUANTIZATION = QuantizationSupport(
    operators=frozenset({"Conv", "MatMul", "Gemm"}),
    activation_types=("int8",),
    symmetric_activations=True,
    per_channel=True,
    per_channel_operators=frozenset({"Conv", "MatMul", "Gemm"}),
    bias="float32",
    quantize_outputs=False,
    activation_matmul=False,
)
"""Symmetric, so that no correction for a zero point is needed; the result is rescaled to float32 after each product."""


def capabilities_of(settings: Settings) -> Capabilities:
    """Return the operators that have a lowering, and the int8 that the lowering makes of Q/DQ."""
    kernels = frozenset(f"{domain}::{op_type}" if domain else op_type for domain, op_type in registry.registered())
    return Capabilities(
        name="xla",
        opset_limit=OPSET_LIMIT,
        opset_minimum=OPSET_MINIMUM,
        kernels=kernels,
        precisions=frozenset({"fp32", "fp16", "bf16", "int8"}) | WEIGHT_ONLY,
        dynamic_shapes=settings.shapes == "symbolic",
        quantization=QUANTIZATION,
    )
