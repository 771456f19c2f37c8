"""What ONNX Runtime can take, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from passes.capabilities import WEIGHT_ONLY, Capabilities, QuantizationSupport, WeightOnlySupport
from targets.processor import has_saturating_int8_products

OPSET_LIMIT = 26
_MEASURED = "CPUExecutionProvider"

# bfloat16 has kernels for a handful of operators only (no Conv, MatMul, Gemm): a bf16 graph does not load.
PRECISIONS = frozenset({"fp32", "fp16", "int8", "int8-dynamic"}) | WEIGHT_ONLY
TYPED_PRECISIONS = frozenset({"int8", "int8-dynamic", "fp16", "bf16"}) | WEIGHT_ONLY

# Kernels that are right but slower than the standard operators that they would replace, with what was seen on one
# thread of a Zen 4 (runtime 1.32). Gelu, LayerNormalization, RMSNormalization, RotaryEmbedding and Attention stay
# standard for the same reason; com.microsoft Attention (with its projection inside), BiasGelu, FastGelu, QuickGelu,
# FusedConv, FusedGemm and FusedMatMul are as fast as what they replace.
NOT_WORTH_KEEPING: Mapping[str, str] = {
    "com.microsoft::MultiHeadAttention": "5 to 8% slower than Add, Split and the standard Attention below 512 tokens",
}

# Kernels that save nodes and nothing else, taken with operators=fewest alone, and what they cost. The runtime's own
# load-time fusion of Add and LayerNormalization makes the first too, so a graph with it is no slower than an untouched
# one, but slower than Sum and LayerNormalization apart.
SAVES_NODES_ALONE: Mapping[str, str] = {
    "com.microsoft::SkipLayerNormalization": "3 to 7 times the time of Sum and LayerNormalization; 5% of a MiniLM",
    "com.microsoft::SkipSimplifiedLayerNormalization": "1.2 to 2.5 times the time of Sum and RMSNormalization",
    "com.microsoft::EmbedLayerNormalization": "no faster, and stops at a negative id, which Gather counts from the end",
}

# how the runtime spells the types of a kernel's data
_TYPE_NAMES = {
    "tensor(float)": "FLOAT",
    "tensor(double)": "DOUBLE",
    "tensor(float16)": "FLOAT16",
    "tensor(bfloat16)": "BFLOAT16",
}

_PRODUCT_OF_CODES = "com.microsoft::MatMulNBits"
_TABLE_OF_CODES = "com.microsoft::GatherBlockQuantized"
_CODE_BITS = frozenset({4, 8})

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


def provider_capabilities(provider: str, *, is_fastest: bool = False) -> Capabilities:
    """Return an execution provider's limits; its kernels are asked of the installed runtime.

    Without `is_fastest`, kernels that save nodes and cost some time are among them.

    On this CPU, int8 weights have 7 bits where 8 would saturate. An artifact built on a CPU with VNNI still saturates
    when it is run on one without: compare its manifest's device.
    """
    kernels = kernels_of(provider)
    withheld = {**NOT_WORTH_KEEPING, **(SAVES_NODES_ALONE if is_fastest else {})} if provider == _MEASURED else {}
    saturates = provider == _MEASURED and has_saturating_int8_products()
    return Capabilities(
        name="onnxruntime",
        opset_limit=OPSET_LIMIT,
        kernels=None if kernels is None else kernels - withheld.keys(),
        kernel_types=kernel_types_of(provider),
        withheld=withheld,
        precisions=PRECISIONS,
        typed_precisions=TYPED_PRECISIONS,
        quantization=replace(QUANTIZATION, weight_bits=7) if saturates else QUANTIZATION,
        weight_only=_weight_only(kernels),
    )


def _weight_only(kernels: frozenset[str] | None) -> WeightOnlySupport:
    """Return what the com.microsoft kernels unpack block by block; where they are not known, all that they could."""
    known = kernels or frozenset({_PRODUCT_OF_CODES, _TABLE_OF_CODES})
    return WeightOnlySupport(
        bits=_CODE_BITS if _PRODUCT_OF_CODES in known else frozenset(),
        embedding_bits=_CODE_BITS if _TABLE_OF_CODES in known else frozenset(),
        negative_scales=True,
    )


@lru_cache(maxsize=8)
def kernels_of(provider: str) -> frozenset[str] | None:
    """Return "Op" and "domain::Op" of every operator that the installed runtime has the provider's kernel for.

    None where that is not known: the provider or the runtime is absent, or built without its kernel registry.
    """
    return frozenset(map(_qualified, _kernels(provider))) or None


@lru_cache(maxsize=8)
def kernel_types_of(provider: str) -> Mapping[str, frozenset[str]]:
    """Return the types of its data, its type parameter T, that each com.microsoft operator has a kernel for."""
    found: dict[str, set[str]] = {}
    for kernel in _kernels(provider):
        if kernel.domain == "com.microsoft" and "T" in kernel.type_constraints:
            types = {_TYPE_NAMES.get(spelling, spelling) for spelling in kernel.type_constraints["T"]}
            found.setdefault(_qualified(kernel), set()).update(types)
    return {name: frozenset(types) for name, types in found.items()}


def _kernels(provider: str) -> list[Any]:
    """Return the definitions of the provider's kernels in the installed runtime."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        return [kernel for kernel in state.get_all_opkernel_def() if kernel.provider == provider]
    except (ImportError, AttributeError):
        return []


def _qualified(kernel: Any) -> str:
    return str(kernel.op_name if kernel.domain in ("", "ai.onnx") else f"{kernel.domain}::{kernel.op_name}")
