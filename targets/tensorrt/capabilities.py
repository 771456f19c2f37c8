"""What TensorRT takes, as plain data that needs no TensorRT package: operators, types and compute capabilities.

Measured with tensorrt-rtx 1.7 (TensorRT 11): `OnnxParser.supports_operator` over all standard operators, then the
ONNX project's own node tests through parser and builder, which showed operators that are claimed and never build.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce

from passes.capabilities import WEIGHT_ONLY, Capabilities, QuantizationSupport, WeightOnlySupport

OPSET_LIMIT = 25
"""The highest that the parser documents. It reads a higher number too, without knowing what changed."""

_MATHEMATICAL = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Ceil Cos Cosh CumSum Div Einsum Equal Erf Exp Floor Greater
    GreaterOrEqual IsInf IsNaN Less LessOrEqual Log MatMul Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sin
    Sinh Sqrt Sub Sum Tan Where Xor
"""
_NEURAL = """
    AveragePool BatchNormalization Celu Clip Conv ConvTranspose Dropout Elu Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool GroupNormalization GRU HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu
    LogSoftmax LpNormalization LpPool LRN LSTM MaxPool MeanVarianceNormalization Mish PRelu Relu RMSNormalization RNN
    RotaryEmbedding Selu Shrink Sigmoid Softmax Softplus Softsign Swish Tanh TensorScatter ThresholdedRelu
"""
_REDUCING = """
    ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare TopK
"""
_SHAPING = """
    BlackmanWindow Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather
    GatherElements GatherND GridSample HammingWindow HannWindow Identity If Loop NonMaxSuppression OneHot Pad
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reshape Resize ReverseSequence STFT Scan Scatter
    ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Upsample
"""
_QUANTIZING = "QuantizeLinear DequantizeLinear"

# The parser knows com.microsoft's Gelu, which equals the standard one.
KERNELS = frozenset(" ".join((_MATHEMATICAL, _NEURAL, _REDUCING, _SHAPING, _QUANTIZING)).split()) | {
    "com.microsoft::Gelu"
}

NOT_BUILT: dict[str, str] = {
    "Attention": "its kernels take few shapes and types (fp32 with dynamic shapes: none), and one tensor read as both "
    "query and key crashes the builder; expand it, TensorRT fuses the MatMul and Softmax chain itself",
    "CausalConvWithState": "TensorRT for RTX ships no plugin for it",
    "Hardmax": "the parser takes it and the builder fails",
    "LinearAttention": "TensorRT for RTX ships no plugin for it",
    "NonZero": "TensorRT for RTX ships no plugin for it, and its output's shape depends on the data",
    "RoiAlign": "TensorRT for RTX ships no plugin for it, and its parser can crash",
}
"""Operators that `supports_operator` claims and no build took, with the reason; they are not in KERNELS."""

AHEAD_OF_TIME: tuple[int, ...] = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT for RTX builds for on any machine, no GPU needed."""

_TURING = frozenset({"fp32", "fp16"})  # int8 Q/DQ builds and runs as fp32 there
_AMPERE = _TURING | {"bf16", "int8", "int4"} | WEIGHT_ONLY
_ADA = _AMPERE | {"fp8"}
_BLACKWELL = _ADA | {"fp4"}
ARCHITECTURES: dict[int, frozenset[str]] = {
    75: _TURING,
    80: _AMPERE,
    86: _AMPERE,
    87: _AMPERE,
    89: _ADA,
    90: _ADA,
    100: _BLACKWELL,
    103: _BLACKWELL,
    120: _BLACKWELL,
    121: _BLACKWELL,
}
"""Compute capability -> what it computes in. Those of AHEAD_OF_TIME were built; the others are from documentation."""

PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN"})
"""Operators that become matrix products; a convolution does not."""

NO_FP32_PRODUCTS = frozenset({75})
"""Compute capabilities whose fp32 matrix products TensorRT for RTX refuses to compile."""

TENSOR_TYPES = frozenset(
    {
        *("FLOAT", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT4E2M1", "FLOAT8E8M0"),
        *("INT4", "INT8", "UINT8", "INT32", "INT64", "BOOL"),
    }
)
"""onnx_ir's names of the types that a TensorRT tensor can have. DOUBLE is taken and computed as FLOAT."""

NUMPY_FROM_TENSORRT: dict[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""TensorRT's name of a type that a user can feed or get -> numpy's, with ml_dtypes' "bfloat16"."""

INTERFACE_TYPES = frozenset(NUMPY_FROM_TENSORRT.values())

PRECISION_FROM_TYPE: dict[str, str] = {
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "FLOAT8E4M3FN": "fp8",
    "INT4": "int4",
    "FLOAT4E2M1": "fp4",
}

PASSTHROUGH = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"})
"""Operators that TensorRT moves a DequantizeLinear across, so that they run on int8."""

_QUANTIZATION = QuantizationSupport(
    operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    passthrough=PASSTHROUGH,
    float_fused=frozenset({"Relu", "Clip", "Add", "BatchNormalization", "LeakyRelu", "Sigmoid", "Gelu"}),
    activation_types=("int8",),
    symmetric_activations=True,
    per_channel=True,
    per_channel_operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    bias="float32",
    quantize_outputs=False,
    activation_matmul=False,
)

_FP8_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})


_WEIGHT_ONLY_SUPPORT = WeightOnlySupport(
    block_bits=frozenset({4}), channel_bits=frozenset({8}), embedding_bits=frozenset(), zero_points=False
)
"""What an engine of tensorrt-rtx 1.7 keeps as integers, by its size: INT4 in blocks and INT8 with one scale a column.

It also builds INT4 with one scale a column and INT8 in blocks, and holds those weights as floats. Zero points are 0.
"""


def capabilities_for(architectures: Collection[int]) -> Capabilities:
    """Return what TensorRT takes on all of these compute capabilities; on any from SM80 when none is named."""
    tables = [ARCHITECTURES[sm] for sm in architectures] or [_AMPERE]
    return Capabilities(
        name="tensorrt",
        opset_limit=OPSET_LIMIT,
        kernels=KERNELS,
        precisions=reduce(frozenset.__and__, tables),
        # TensorRT 11 is strongly typed only: no builder flag lowers a precision.
        typed_precisions=frozenset({"fp32", "fp16", "bf16", "fp8", "int8"}) | WEIGHT_ONLY,
        dynamic_shapes=True,
        quantization=_QUANTIZATION,
        weight_only=_WEIGHT_ONLY_SUPPORT,
        fp8_operators=_FP8_OPERATORS,
    )
