"""int8: the products are taken in integers, and give what dequantizing first would give."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from targets.base import BuildOptions
from targets.xla.backend import load_jax, tracing
from targets.xla.lowering.program import Program
from targets.xla.target import XlaTarget
from targets.xla.weights import weights_of
from tests.support.quantized_model import quantized_model
from tests.support.small_models import sqnr_db, unoptimized
from tests.targets.xla.test_operators import lowered

WEIGHTS = {"Conv": (6, 4, 3, 3), "Gemm": (4, 5), "MatMul": (4, 5)}
INPUTS = {"Conv": (2, 4, 7, 6), "Gemm": (3, 4), "MatMul": (2, 3, 4)}


def product(
    op_type: str,
    *,
    activation: type = np.int8,
    zero: int = 0,
    per_channel: bool = True,
    weight_zero: int = 0,
    shape: tuple[int, ...] | None = None,
    weight_shape: tuple[int, ...] | None = None,
    **attributes,
) -> ir.Model:
    """Return x -> QuantizeLinear -> DequantizeLinear -> op(., DequantizeLinear(weight)) -> y."""
    random = np.random.default_rng(0)
    shape, weight_shape = shape or INPUTS[op_type], weight_shape or WEIGHTS[op_type]
    axis = 0 if op_type == "Conv" or attributes.get("transB") else 1
    channels = weight_shape[axis]
    scale = random.uniform(0.01, 0.05, channels).astype(np.float32) if per_channel else np.float32(0.02)
    weight_zeros = np.full(np.shape(scale), weight_zero, np.int8)
    constants = {
        "s": np.float32(0.04),
        "z": np.array(zero, activation),
        "w": random.integers(-128, 128, weight_shape).astype(np.int8),
        "ws": scale,
        "wz": weight_zeros,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis),
        helper.make_node(op_type, ["d", "wd"], ["y"], name="product", **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


VARIANTS = {
    "matmul": {"op_type": "MatMul"},
    "matmul-uint8": {"op_type": "MatMul", "activation": np.uint8, "zero": 113},
    "matmul-weight-zero": {"op_type": "MatMul", "zero": -7, "weight_zero": 5},
    "matmul-per-tensor": {"op_type": "MatMul", "per_channel": False},
    "gemm": {"op_type": "Gemm"},
    "gemm-transposed": {"op_type": "Gemm", "weight_shape": (5, 4), "transB": 1},
    "conv": {"op_type": "Conv", "pads": [1, 0, 2, 1]},
    "conv-uint8-padded": {"op_type": "Conv", "activation": np.uint8, "zero": 90, "pads": [1, 1, 1, 1]},
    "conv-int8-zero": {"op_type": "Conv", "zero": 11, "pads": [2, 1, 0, 1], "strides": [2, 2]},
    "conv-depthwise": {"op_type": "Conv", "weight_shape": (4, 1, 3, 3), "group": 4, "zero": 3, "pads": [1, 1, 1, 1]},
    "conv-groups": {"op_type": "Conv", "weight_shape": (6, 2, 3, 3), "group": 2},
    "conv-long-sums": {"op_type": "Conv", "shape": (1, 300, 5, 5), "weight_shape": (2, 300, 5, 5)},
}


def exact_reference(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """Return the product in float64 of (integer - zero point) * scale, the integers being the graph's own."""
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    nodes = {node.outputs[0].name: node for node in model.graph}
    low, high = np.iinfo(constants["z"].dtype).min, np.iinfo(constants["z"].dtype).max
    q = np.clip(np.rint(x / constants["s"]) + constants["z"], low, high)
    d = (q - constants["z"]) * constants["s"].astype(np.float64)
    axis = nodes["wd"].attributes["axis"].as_int()
    shape = [-1 if dim == axis else 1 for dim in range(constants["w"].ndim)]
    if constants["ws"].ndim == 0:
        shape = [1]
    wd = constants["w"].astype(np.float64) - constants["wz"].reshape(shape)
    wd = wd * constants["ws"].astype(np.float64).reshape(shape)
    product_node = ir.to_proto(nodes["y"])
    graph = helper.make_graph(
        [product_node],
        "double",
        [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, value.shape)
            for name, value in (("d", d), ("wd", wd))
        ],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
    )
    double = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ReferenceEvaluator(double).run(None, {"d": d, "wd": wd})[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_dequantizing_first(variant: str):
    model = product(**VARIANTS[variant])
    x = np.random.default_rng(1).uniform(-5, 5, [int(d) for d in model.graph.inputs[0].shape]).astype(np.float32)
    (actual,) = lowered(model, {"x": x})
    expected = exact_reference(model, x)
    assert actual.shape == expected.shape
    # Sums are exact; what is left is the rounding of the scales' product and of the result, two steps of float32.
    np.testing.assert_allclose(actual, expected, rtol=5e-7, atol=1e-6)


def stablehlo(model: ir.Model, platform: str) -> str:
    jax = load_jax()
    program = Program(model)
    shape = tuple(int(d) for d in model.graph.inputs[0].shape)
    weights = {name: np.asarray(tensor.numpy()) for name, tensor in weights_of(model).items()}
    with tracing("highest"):
        function = jax.jit(lambda weights, inputs: program(weights, inputs))
        inputs = [jax.ShapeDtypeStruct(shape, np.float32)]
        return function.trace(weights, inputs).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("op_type", "operation"), [("MatMul", "dot_general"), ("Conv", "convolution")])
def test_an_accelerator_gets_int8_operands_and_int32_sums(op_type: str, operation: str):
    lines = [line for line in stablehlo(product(op_type), "tpu").splitlines() if f"stablehlo.{operation}" in line]
    assert len(lines) == 1
    assert lines[0].count("xi8>") == 2
    assert "xi32>" in lines[0]


@pytest.mark.parametrize("weight_only", [False, True])
def test_manifest_counts_the_int8_products(tmp_path, weight_only: bool):
    model = quantized_model(weight_only=weight_only)
    artifact = XlaTarget().build(model, tmp_path, BuildOptions(precision="int8"))
    details = artifact.manifest.details
    assert details["int8_executed"] == ({} if weight_only else {"Conv": 2, "Gemm": 1})
    assert details["int8_planned"] == (0 if weight_only else 3)
    assert details["float_fallbacks"] == []
    feeds = {"image": np.random.default_rng(0).uniform(-3, 3, (2, 8, 8, 8)).astype(np.float32)}
    with XlaTarget().open(artifact) as runner:
        actual = runner(feeds)["scores"]
    assert sqnr_db(actual, unoptimized(model, feeds)["scores"]) > 60


def test_weights_quantized_along_the_summed_axis_stay_float():
    model = product("MatMul", weight_shape=(4, 4))
    node = next(node for node in model.graph if node.outputs[0].name == "wd")
    node.attributes["axis"] = ir.AttrInt64("axis", 0)
    x = np.random.default_rng(1).uniform(-5, 5, (2, 3, 4)).astype(np.float32)
    program = Program(model)
    with tracing("highest"):
        actual = load_jax().jit(lambda inputs: program({}, inputs))([x])[0]
    assert program.int8_nodes == set()
    np.testing.assert_allclose(np.asarray(actual), exact_reference(model, x), rtol=1e-5, atol=1e-5)
