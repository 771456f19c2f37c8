"""What OpenVINO can take, as tables."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from passes.capabilities import WEIGHT_ONLY, Capabilities, QuantizationSupport, WeightOnlySupport
from passes.errors import MissingDependency
from targets.openvino.runtime import the_core
from targets.processor import has_saturating_int8_products

if TYPE_CHECKING:
    from targets.openvino.settings import Settings

OPSET_LIMIT = 24

NOT_KEPT: dict[str, str] = {
    "Attention": "its conversion tests the whole result for NaN and misplaces the causal mask after past keys; plain "
    "products around a Softmax are compiled into one kernel, without that test where no row can be hidden",
}
"""Standard operators that are expanded although the front end converts them, with the reason.

Measured with OpenVINO 2026.4 over the ONNX project's own node tests: every other operator that the fusion passes raise
is computed right, and RotaryEmbedding, RMSNormalization, Gelu, Swish, Mish and HardSwish become one node of the CPU
plug-in each. The bodies that ONNX defines are no replacement: the CPU plug-in's ReduceMax of a row of -inf is finite,
so Attention's own test for rows that are wholly hidden fails."""

QUANTIZATION = QuantizationSupport(
    operators=frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"}),
    passthrough=frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Relu"}),
    float_fused=frozenset({"Relu", "Clip", "Add", "Sigmoid", "HardSwish", "Gelu"}),
    activation_types=("uint8", "int8"),
    symmetric_activations=False,
    per_channel=True,
    bias="float32",
    quantize_outputs=False,
    activation_matmul=False,
)

# A hint -> the name by which a device says that it has this arithmetic.
CAPABILITY_OF_HINT = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
_PRECISION_OF_CAPABILITY = {"FP32": "fp32", "BF16": "bf16", "FP16": "fp16", "INT8": "int8"}


def device_capabilities(settings: Settings) -> Capabilities:
    """Return the limits of the chosen device; without OpenVINO or the device, those that every device has.

    On this CPU, int8 weights have 7 bits where 8 would saturate. An artifact built on a CPU with VNNI still saturates
    when it is run on one without: compare its manifest's device.
    """
    saturates = settings.device == "CPU" and has_saturating_int8_products()
    offered = {
        _PRECISION_OF_CAPABILITY[name] for name in optimizations_of(settings.device) if name in _PRECISION_OF_CAPABILITY
    }
    return Capabilities(
        name="openvino",
        opset_limit=OPSET_LIMIT,
        kernels=_standard_operators() - NOT_KEPT.keys(),
        precisions=frozenset(offered or {"fp32", "int8"}) | WEIGHT_ONLY,
        weight_only=WeightOnlySupport(embedding_blocks=False, negative_scales=True),
        typed_precisions=frozenset({"int8"}) | WEIGHT_ONLY,
        rest_settings={"bf16": {"precision_hint": "bf16"}} if "bf16" in offered else {},
        quantization=replace(QUANTIZATION, weight_bits=7) if saturates else QUANTIZATION,
    )


@cache
def _standard_operators() -> frozenset[str]:
    """Return the names of all operators of the standard set. What has no conversion rule at all shows in `blockers`."""
    import onnx

    return frozenset(schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "")


def optimizations_of(device: str) -> tuple[str, ...]:
    """Return what arithmetic a device says it has ("FP32", "BF16", "INT8", ...); empty when it is not here."""
    try:
        return tuple(the_core().get_property(device, "OPTIMIZATION_CAPABILITIES"))
    except (MissingDependency, RuntimeError):
        return ()
