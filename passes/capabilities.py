"""What a runtime can take, as plain data: a target fills it in, a pass reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BiasType = Literal["int32", "float32"]
ActivationType = Literal["int8", "uint8"]

WEIGHT_ONLY = frozenset({"int8-weight-only", "int4-weight-only"})
"""The precisions whose weights are integers and whose arithmetic is float."""


@dataclass(frozen=True, slots=True)
class QuantizationSupport:
    """The int8 that a runtime executes as int8.

    operators: operators with int8 kernels ("Conv", "MatMul", ...): their data inputs get Q/DQ.
    passthrough: operators that keep int8 when input and output share one scale (MaxPool, Reshape, Transpose, Relu).
    float_fused: float operators that the runtime fuses into the int8 kernel before them (Relu, Clip, Add, ...).
    quantize_outputs: the runtime fuses only DQ -> op -> Q, so every int8 operator's output must be quantized too.
    float_output: with quantize_outputs, the operators whose int8 kernel can return float as well (MatMul, Gemm).
    activation_matmul: a MatMul of two activations (attention scores) runs in int8.
    """

    operators: frozenset[str] = frozenset()
    passthrough: frozenset[str] = frozenset()
    float_fused: frozenset[str] = frozenset()
    activation_types: tuple[ActivationType, ...] = ("int8",)
    symmetric_activations: bool = True
    per_channel: bool = True
    per_channel_operators: frozenset[str] = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
    weight_bits: int = 8  # 7 leaves headroom where int8 products saturate in int16 (x86 without VNNI)
    bias: BiasType = "float32"
    quantize_outputs: bool = False
    float_output: frozenset[str] = frozenset()
    activation_matmul: bool = False


@dataclass(frozen=True, slots=True)
class WeightOnlySupport:
    """The weights that a runtime keeps as integers while everything computes in float.

    bits: widths of the codes of a matrix product's weight. block_bits, channel_bits: those of them that may have a
    scale for each block, or one for each column. embedding_bits: those of a table that Gather takes rows of.
    embedding_blocks: such a table may have blocks; else it keeps its integers with one scale a row only.
    zero_points: a block may have a zero point of its own. negative_scales: a scale may be below zero.
    """

    bits: frozenset[int] = frozenset({4, 8})
    block_bits: frozenset[int] = frozenset({4, 8})
    channel_bits: frozenset[int] = frozenset({4, 8})
    embedding_bits: frozenset[int] = frozenset({4, 8})
    embedding_blocks: bool = True
    zero_points: bool = True
    negative_scales: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A runtime's limits.

    kernels: "Op" or "domain::Op" names with a kernel; None means the whole standard operator set up to `opset_limit`.
    withheld: kernels that the runtime has and that are left out of `kernels` since they do not pay, and why.
    kernel_types: for some of them, the types of the operator's data ("FLOAT", "FLOAT16") that the kernel takes.
    precisions: the precisions it computes in, of "fp32", "fp16", "bf16", "fp8", "int8", "int8-dynamic".
    fp8_operators: operators that it multiplies in fp8 e4m3 between DequantizeLinear and the weight's.
    weight_only: which weights it keeps as integers for "int8-weight-only" and "int4-weight-only".
    typed_precisions: the ones that the graph's own types must carry; for the others the runtime is told at build time.
    rest_settings: precision -> the target's settings with which what stays float in an int8 graph computes in it.
    """

    name: str
    opset_limit: int
    opset_minimum: int = 13
    kernels: frozenset[str] | None = None
    precisions: frozenset[str] = frozenset({"fp32"})
    typed_precisions: frozenset[str] = frozenset({"int8"}) | WEIGHT_ONLY
    rest_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    dynamic_shapes: bool = True
    quantization: QuantizationSupport = field(default_factory=QuantizationSupport)
    weight_only: WeightOnlySupport = field(default_factory=WeightOnlySupport)
    fp8_operators: frozenset[str] = frozenset()
    kernel_types: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    withheld: Mapping[str, str] = field(default_factory=dict, hash=False)

    def has_kernel(self, op_type: str, *, domain: str = "", dtype: str = "") -> bool:
        """Return whether the runtime executes this operator itself, on data of type `dtype` where that is given."""
        if self.kernels is None:
            return domain in ("", "ai.onnx")
        name = op_type if domain in ("", "ai.onnx") else f"{domain}::{op_type}"
        return name in self.kernels and (not dtype or dtype in self.kernel_types.get(name, (dtype,)))


PORTABLE = Capabilities(name="portable", opset_limit=23)
"""The runtime-free default: standard operators up to opset 23."""
