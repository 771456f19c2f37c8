"""What ONNX Runtime can take, as tables."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from passes.capabilities import Capabilities, QuantizationSupport
from targets.processor import has_saturating_int8_products

OPSET_LIMIT = 26

# bfloat16 has kernels for a handful of operators only (no Conv, MatMul, Gemm): a bf16 graph does not load.
PRECISIONS = frozenset({"fp32", "fp16", "int8"})
TYPED_PRECISIONS = frozenset({"int8", "fp16", "bf16"})

# Kernels that are right but slower than what the expansion gives; measured on one thread of a Zen 4.
# (None so far: Gelu, LayerNormalization, RMSNormalization, RotaryEmbedding and Attention are at least as fast as both
# their com.microsoft counterparts and their decompositions.)
NOT_WORTH_KEEPING: frozenset[str] = frozenset()

QUANTIZATION = QuantizationSupport(
    operators=frozenset({"Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat"}),
    passthrough=frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Gather"}),
    float_fused=frozenset({"Relu", "Clip"}),
    activation_types=("uint8", "int8"),
    symmetric_activations=False,
    per_channel=True,
    bias="int32",
    quantize_outputs=True,
    float_output=frozenset({"MatMul", "Gemm"}),
    activation_matmul=False,
)


def provider_capabilities(provider: str) -> Capabilities:
    """Return an execution provider's limits; its kernels are asked of the installed runtime.

    On this CPU, int8 weights have 7 bits where 8 would saturate. An artifact built on a CPU with VNNI still saturates
    when it is run on one without: compare its manifest's device.
    """
    kernels = kernels_of(provider)
    saturates = provider == "CPUExecutionProvider" and has_saturating_int8_products()
    return Capabilities(
        name="onnxruntime",
        opset_limit=OPSET_LIMIT,
        kernels=None if kernels is None else kernels - NOT_WORTH_KEEPING,
        precisions=PRECISIONS,
        typed_precisions=TYPED_PRECISIONS,
        quantization=replace(QUANTIZATION, weight_bits=7) if saturates else QUANTIZATION,
    )


@lru_cache(maxsize=8)
def kernels_of(provider: str) -> frozenset[str] | None:
    """Return "Op" and "domain::Op" of every operator that the installed runtime has the provider's kernel for.

    None where that is not known: the provider or the runtime is absent, or built without its kernel registry.
    """
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        definitions: list[Any] = state.get_all_opkernel_def()
    except (ImportError, AttributeError):
        return None
    found = frozenset(
        kernel.op_name if kernel.domain in ("", "ai.onnx") else f"{kernel.domain}::{kernel.op_name}"
        for kernel in definitions
        if kernel.provider == provider
    )
    return found or None
