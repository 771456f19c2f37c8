"""One-node graphs for every operator that has a lowering: inputs, attributes, operator set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets.xla.lowering.registry import find_lowering

DEFAULT_OPSET = 23


@dataclass(frozen=True)
class Case:
    """Inputs that the lowering needs at trace time become initializers, the others are fed.

    reference: "onnx" (the reference evaluator) or "ort" (ONNX Runtime without optimizations).
    """

    op_type: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = DEFAULT_OPSET
    domain: str = ""
    outputs: int = 1
    reference: str = "onnx"
    tolerance: float = 2e-5
    note: str = ""

    def __str__(self) -> str:
        first = next((value for value in self.inputs if value is not None), np.zeros(()))
        shape = "x".join(map(str, first.shape)) or "scalar"
        return f"{self.op_type}-{self.opset}-{first.dtype}-{shape}{'-' + self.note if self.note else ''}"

    def model(self) -> onnx.ModelProto:
        lowering = find_lowering(self.op_type, self.domain, self.opset if not self.domain else 1)
        assert lowering is not None, f"no lowering for {self}"
        names = ["" if value is None else f"x{position}" for position, value in enumerate(self.inputs)]
        node = helper.make_node(
            self.op_type, names, [f"y{index}" for index in range(self.outputs)], domain=self.domain, **self.attributes
        )
        fed, initializers = [], []
        for position, (name, value) in enumerate(zip(names, self.inputs, strict=True)):
            if value is None:
                continue
            if position in lowering.host:
                initializers.append(numpy_helper.from_array(value, name))
            else:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                fed.append(helper.make_tensor_value_info(name, kind, value.shape))
        declared = [onnx.ValueInfoProto(name=f"y{index}") for index in range(self.outputs)]
        graph = helper.make_graph([node], "case", fed, declared, initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feeds(self) -> dict[str, np.ndarray]:
        named = {f"x{position}": value for position, value in enumerate(self.inputs) if value is not None}
        return {value.name: named[value.name] for value in self.model().graph.input}


def f(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def n(*shape: int, seed: int = 0, low: int = -5, high: int = 6, dtype: Any = np.int64) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def boolean(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


def scalar(value: Any, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype)


_SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (2, 3, 4))
_ANY_REAL = "Abs Ceil Cos Erf Exp Floor Identity Neg Round Sigmoid Sign Sin Sinh Cosh Tan Tanh Atan Asinh Relu Softplus"
_ACTIVATIONS = "Elu Celu Selu HardSigmoid HardSwish Mish LeakyRelu Softsign ThresholdedRelu Shrink Gelu"
_RANGED = {"Acos": (-1, 1), "Asin": (-1, 1), "Atanh": (-0.9, 0.9), "Acosh": (1, 4), "Log": (0.1, 4), "Sqrt": (0, 4),
           "Reciprocal": (0.5, 3)}  # fmt: skip


def _unary() -> Iterator[Case]:
    for op_type in (_ANY_REAL + " " + _ACTIVATIONS).split():
        for shape in _SHAPES[op_type == "Softsign" :]:  # the reference evaluator has no scalar Softsign
            yield Case(op_type, (f(*shape),))
        if op_type not in ("Celu", "Erf", "Gelu"):
            yield Case(op_type, (f(3, 4, dtype=np.float64),))
    for op_type, (low, high) in _RANGED.items():
        yield Case(op_type, (f(3, 4, low=low, high=high),))
        yield Case(op_type, (f(3, 4, low=low, high=high, dtype=np.float64),))
    for op_type in ("Abs", "Neg", "Sign", "Relu"):
        yield Case(op_type, (n(3, 4, dtype=np.int32),))
    yield Case("Gelu", (f(3, 4),), {"approximate": "tanh"}, note="tanh")
    yield Case("Round", (scalar([0.5, 1.5, -0.5, 2.5, -2.5]),), note="halves")
    yield Case("PRelu", (f(2, 3, 4), f(3, 1, seed=1)))
    yield Case("Swish", (f(3, 4),), opset=24)
    yield Case("SwiGLU", (f(3, 4), f(3, 4, seed=1)), {"alpha": 1.5}, opset=28)
    yield Case("Gelu", (f(3, 4),), domain="com.microsoft", reference="ort")
    yield Case("QuickGelu", (f(3, 4),), domain="com.microsoft", reference="ort")
    yield Case("Dropout", (f(3, 4),), outputs=2)
    yield Case("Dropout", (f(3, 4),), opset=10, reference="ort")
    yield Case("IsNaN", (np.array([1, np.nan, np.inf], np.float32),))
    yield Case("IsInf", (np.array([1, np.nan, np.inf, -np.inf], np.float32),))
    yield Case("IsInf", (np.array([1, np.inf, -np.inf], np.float32),), {"detect_negative": 0}, note="positive")
    yield Case("Not", (boolean(3, 4),))
    yield Case("BitwiseNot", (n(3, 4, dtype=np.int32),))


def _binary() -> Iterator[Case]:
    for op_type in ("Add", "Sub", "Mul", "Div", "Pow"):
        low = 0.5 if op_type in ("Div", "Pow") else -2.0
        for left, right in (((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((), (2, 1)), ((3, 1), (1, 4))):
            yield Case(op_type, (f(*left, low=low), f(*right, seed=1, low=low)))
        yield Case(op_type, (f(3, 4, low=low, dtype=np.float64), f(3, 4, seed=1, low=low, dtype=np.float64)))
    for dtype in (np.int32, np.int64):
        yield Case("Div", (n(40, dtype=dtype), n(40, seed=1, low=1, dtype=dtype)), note="toward-zero")
        yield Case("Div", (n(40, dtype=dtype), n(40, seed=1, low=-6, high=0, dtype=dtype)), note="negative")
        yield Case("Mod", (n(40, dtype=dtype), n(40, seed=1, low=1, dtype=dtype)))
        yield Case("Mod", (n(40, dtype=dtype), n(40, seed=1, low=1, dtype=dtype)), {"fmod": 1}, note="fmod")
        yield Case("Pow", (n(9, low=1, dtype=dtype), n(9, seed=1, low=0, high=4, dtype=dtype)))
    yield Case("Mod", (f(9), f(9, seed=1, low=0.5)), {"fmod": 1}, note="fmod")
    for op_type in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        yield Case(op_type, (n(3, 4), n(4, seed=1)))
        yield Case(op_type, (f(3, 4), f(3, 1, seed=1)))
    for op_type in ("And", "Or", "Xor"):
        yield Case(op_type, (boolean(3, 4), boolean(4, seed=1)))
    for op_type in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        yield Case(op_type, (n(3, 4, dtype=np.int32), n(4, seed=1, dtype=np.int32)))
    for direction in ("LEFT", "RIGHT"):
        values = (n(9, low=0, high=99, dtype=np.uint8), n(9, seed=1, low=0, high=7, dtype=np.uint8))
        yield Case("BitShift", values, {"direction": direction}, note=direction.lower())
    for op_type in ("Min", "Max", "Sum", "Mean"):
        yield Case(op_type, (f(3, 4), f(4, seed=1), f(3, 1, seed=2)))
    yield Case("Min", (n(3, 4), n(4, seed=1)))
    yield Case("Where", (boolean(3, 1), f(3, 4), f(4, seed=1)))
    yield Case("Clip", (f(3, 4), scalar(-0.5), scalar(0.5)))
    yield Case("Clip", (f(3, 4), None, scalar(0.5)), note="no-low")
    yield Case("Clip", (n(3, 4), scalar(-2, np.int64), scalar(2, np.int64)))
    yield Case("Clip", (f(3, 4),), {"min": -0.5, "max": 0.5}, opset=10, reference="ort")


def _casts() -> Iterator[Case]:
    for source in (np.float32, np.int64, np.bool_, np.float64, np.int8):
        for target in (TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT16):
            yield Case("Cast", (n(3, 4).astype(source),), {"to": target}, note=f"to-{target}")
    yield Case("Cast", (np.array([-1.7, 1.7, 2.5], np.float32),), {"to": TensorProto.INT64}, note="truncates")
    yield Case("CastLike", (f(3, 4), n(1)))
    yield Case("BitCast", (n(3, 4, dtype=np.int32),), {"to": TensorProto.FLOAT}, opset=26)


def _reductions() -> Iterator[Case]:
    names = "Sum Mean Prod Max Min L1 L2 SumSquare LogSum LogSumExp"
    for name in names.split():
        x = f(2, 3, 4, low=0.1) if name == "LogSum" else f(2, 3, 4)
        yield Case(f"Reduce{name}", (x, i64(1)))
        yield Case(f"Reduce{name}", (x, i64(-1, 0)), {"keepdims": 0}, note="flat")
        yield Case(f"Reduce{name}", (x,), note="all")
        yield Case(f"Reduce{name}", (x,), {"noop_with_empty_axes": 1}, note="noop", reference="onnx")
        yield Case(f"Reduce{name}", (x,), {"axes": [1]}, opset=11, reference="ort")
    yield Case("ReduceMean", (n(2, 3, 4, dtype=np.int32), i64(1)), reference="ort")
    yield Case("ReduceMax", (n(2, 3, 4), i64(0, 2)))
    for op_type in ("ArgMax", "ArgMin"):
        x = n(4, 9, low=0, high=3).astype(np.float32)
        yield Case(op_type, (x,), {"axis": -1})
        yield Case(op_type, (x,), {"axis": 0, "keepdims": 0, "select_last_index": 1}, note="last")
    for attributes in ({}, {"reverse": 1}, {"exclusive": 1}, {"exclusive": 1, "reverse": 1}):
        yield Case("CumSum", (f(3, 4), scalar(1, np.int64)), attributes, note="-".join(attributes))
    yield Case("CumProd", (f(3, 4), scalar(1, np.int64)), opset=26)


def _products() -> Iterator[Case]:
    yield Case("MatMul", (f(3, 4), f(4, 5, seed=1)))
    yield Case("MatMul", (f(2, 1, 3, 4), f(5, 4, 6, seed=1)))
    yield Case("MatMul", (f(4), f(4, 5, seed=1)), note="vector")
    yield Case("MatMul", (n(3, 4), n(4, 5, seed=1)))
    yield Case("Gemm", (f(3, 4), f(4, 5, seed=1), f(5, seed=2)))
    yield Case("Gemm", (f(4, 3), f(5, 4, seed=1), f(1, seed=2)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0})
    yield Case("Gemm", (f(3, 4), f(4, 5, seed=1)), note="no-c")
    yield Case("Einsum", (f(2, 3, 4), f(2, 4, 5, seed=1)), {"equation": "bij, bjk -> bik"})
    yield Case("Det", (f(2, 3, 3),))
    yield Case("FusedMatMul", (f(4, 3), f(4, 5, seed=1)), {"transA": 1, "alpha": 0.5}, domain="com.microsoft",
               reference="ort")  # fmt: skip


def _convolutions() -> Iterator[Case]:
    x = f(2, 4, 9, 8)
    for attributes in (
        {},
        {"pads": [1, 0, 2, 3]},
        {"strides": [2, 3], "dilations": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ):
        yield Case("Conv", (x, f(6, 4, 3, 2, seed=1), f(6, seed=2)), attributes, note="-".join(attributes))
    yield Case("Conv", (x, f(8, 2, 3, 3, seed=1)), {"group": 2}, note="groups")
    depthwise = (x, f(4, 1, 3, 3, seed=1), f(4, seed=2))
    yield Case("Conv", depthwise, {"group": 4, "pads": [0, 1, 2, 1], "strides": [2, 1]}, note="depthwise")
    yield Case("Conv", (x, f(8, 1, 2, 3, seed=1)), {"group": 4, "dilations": [2, 2]}, note="depthwise-twice")
    yield Case("Conv", (f(2, 4, 16), f(6, 4, 5, seed=1)), {"pads": [2, 1]}, note="1d")
    yield Case("Conv", (f(2, 4, 16, 1), f(6, 4, 5, 1, seed=1)), {"pads": [2, 0, 1, 0]}, note="narrow")
    yield Case("Conv", (f(1, 2, 4, 5, 6), f(3, 2, 2, 2, 2, seed=1)), note="3d")
    for attributes in (
        {},
        {"strides": [2, 3], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "output_padding": [1, 0]},
        {"strides": [2, 2], "output_shape": [10, 8]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ):
        yield Case("ConvTranspose", (f(1, 4, 4, 3), f(4, 2, 3, 3, seed=1), f(2, seed=2)), attributes,
                   reference="ort", note="-".join(attributes))  # fmt: skip
    yield Case("ConvTranspose", (f(1, 4, 4, 3), f(4, 2, 3, 3, seed=1)), {"group": 2}, reference="ort", note="groups")
    yield Case("Col2Im", (f(1, 8, 9), i64(4, 4), i64(2, 2)))


def _pools() -> Iterator[Case]:
    x = f(2, 3, 7, 8)
    windows: tuple[dict[str, Any], ...] = (
        {"kernel_shape": [2, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "dilations": [2, 1]},
    )
    for number, attributes in enumerate(windows):
        yield Case("MaxPool", (x,), attributes, reference="ort", note=str(number))
        yield Case("AveragePool", (x,), attributes, reference="ort", note=str(number))
        yield Case("LpPool", (x,), attributes, reference="ort", note=str(number), opset=22)
    padded = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    yield Case("AveragePool", (x,), padded, reference="ort", note="counts-pads")
    yield Case("AveragePool", (x,), {**padded, "ceil_mode": 1}, reference="ort", note="counts-pads-ceil")
    for order in (0, 1):
        attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": order}
        yield Case("MaxPool", (x,), attributes, outputs=2, reference="ort", note=f"indices-{order}")
    yield Case("MaxPool", (n(1, 2, 6, 6, dtype=np.int8),), {"kernel_shape": [2, 2]}, reference="ort")
    for op_type in ("GlobalAveragePool", "GlobalMaxPool"):
        yield Case(op_type, (x,))
    yield Case("GlobalLpPool", (x,), {"p": 2}, opset=21, reference="ort")
    yield Case("MaxUnpool", (f(1, 1, 2, 2), i64(5, 7, 13, 15).reshape(1, 1, 2, 2)),
               {"kernel_shape": [2, 2], "strides": [2, 2]})  # fmt: skip


def _norms() -> Iterator[Case]:
    x = f(2, 4, 5, 3)
    channel = [f(4, seed=seed, low=0.5) for seed in range(1, 5)]
    yield Case("BatchNormalization", (x, *channel))
    yield Case("BatchNormalization", (x, *channel), {"training_mode": 1}, outputs=3, note="training")
    yield Case("LayerNormalization", (f(2, 3, 8), f(8, seed=1), f(8, seed=2)), outputs=3)
    yield Case("LayerNormalization", (f(2, 3, 8), f(3, 8, seed=1)), {"axis": 1, "epsilon": 1e-3}, note="axis")
    yield Case("SkipLayerNormalization", (f(2, 3, 8), f(2, 3, 8, seed=1), f(8, seed=2), f(8, seed=3), f(8, seed=4)),
               domain="com.microsoft", reference="ort")  # fmt: skip
    yield Case("RMSNormalization", (f(2, 3, 8), f(8, seed=1)))
    yield Case("InstanceNormalization", (x, channel[0], channel[1]))
    yield Case("GroupNormalization", (x, f(4, seed=1), f(4, seed=2)), {"num_groups": 2}, opset=21)
    yield Case("GroupNormalization", (x, f(2, seed=1), f(2, seed=2)), {"num_groups": 2}, opset=18, reference="ort")
    yield Case("MeanVarianceNormalization", (x,))
    yield Case("LpNormalization", (x,), {"axis": 1, "p": 1}, reference="ort")
    yield Case("LpNormalization", (x,), {"axis": -1, "p": 2}, note="euclidean")
    yield Case("LRN", (x,), {"size": 3}, reference="ort")
    for op_type in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Case(op_type, (f(2, 3, 4),), {"axis": 1})
        yield Case(op_type, (f(2, 3, 4),), {"axis": 1}, opset=11, reference="ort")
    labels = n(3, 5, low=0, high=4)
    for reduction in ("none", "sum", "mean"):
        attributes = {"reduction": reduction, "ignore_index": 1}
        values = (f(3, 4, 5), labels, f(4, seed=1, low=0.1))
        yield Case("NegativeLogLikelihoodLoss", values, attributes, note=reduction)
        yield Case("SoftmaxCrossEntropyLoss", values, attributes, note=reduction, outputs=2)


def _shapes() -> Iterator[Case]:
    x = f(2, 3, 4)
    yield Case("Shape", (x,), {"start": 1})
    yield Case("Shape", (x,), {"start": -2, "end": -1}, note="part")
    yield Case("Size", (x,))
    yield Case("Reshape", (x, i64(0, -1)))
    yield Case("Reshape", (x, i64(4, 6)), note="plain")
    yield Case("Flatten", (x,), {"axis": 2})
    yield Case("Flatten", (x,), {"axis": -1}, note="negative")
    yield Case("Transpose", (x,), {"perm": [2, 0, 1]})
    yield Case("Transpose", (x,), note="reverse")
    yield Case("Squeeze", (f(1, 3, 1), i64(0, -1)))
    yield Case("Squeeze", (f(1, 3, 1),), note="all")
    yield Case("Squeeze", (f(1, 3, 1),), {"axes": [0]}, opset=11, reference="ort")
    yield Case("Unsqueeze", (x, i64(0, -1)))
    yield Case("Unsqueeze", (x,), {"axes": [0]}, opset=11, reference="ort")
    yield Case("Concat", (x, f(2, 1, 4, seed=1)), {"axis": -2})
    yield Case("Expand", (f(3, 1), i64(2, 1, 4)))
    yield Case("Tile", (x, i64(1, 2, 3)))
    yield Case("Slice", (f(5, 6), i64(1, -1), i64(2**62, -(2**62)), i64(0, 1), i64(2, -2)))
    yield Case("Slice", (f(5, 6), i64(-3), i64(-1)), note="negative")
    yield Case("Slice", (f(5, 6), i64(-10), i64(-100), i64(0), i64(-1)), reference="ort", note="from-before-the-first")
    yield Case("Slice", (f(5, 6),), {"starts": [1], "ends": [3], "axes": [1]}, opset=9, reference="ort")
    yield Case("Split", (f(7, 2), i64(3, 4)), {"axis": 0}, outputs=2)
    yield Case("Split", (f(7, 2),), {"axis": 0, "num_outputs": 2}, outputs=2, note="uneven")
    yield Case("Split", (f(6, 2),), {"axis": 0, "split": [2, 4]}, opset=11, outputs=2, reference="ort")
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case("Pad", (f(4, 5), i64(1, 2, 0, 3)), {"mode": mode}, note=mode)
    yield Case("Pad", (f(4, 5), i64(1, -2), scalar(7.0), i64(1)), reference="ort", note="axes-cut")
    yield Case("Pad", (f(4, 5),), {"pads": [1, 0, 0, 2], "value": 3.0}, opset=10, reference="ort")
    for mode in ("DCR", "CRD"):
        yield Case("DepthToSpace", (f(1, 8, 2, 3),), {"blocksize": 2, "mode": mode}, note=mode)
    yield Case("SpaceToDepth", (f(1, 2, 4, 6),), {"blocksize": 2})
    yield Case("SpaceToDepth", (f(1, 2, 4, 6),), {"blocksize": 2, "mode": "CRD"}, opset=28)
    yield Case("CenterCropPad", (f(5, 4), i64(3, 7)))


def _indices() -> Iterator[Case]:
    x = f(4, 3, 5)
    yield Case("Gather", (x, np.array([[0, -1], [2, -4]])), {"axis": 0})
    yield Case("Gather", (x, n(2, low=-5, high=5, dtype=np.int32)), {"axis": -1}, note="int32")
    yield Case("GatherElements", (x, n(4, 2, 5, low=-3, high=3)), {"axis": 1})
    yield Case("GatherND", (x, np.array([[0, 1], [-1, 2]])))
    yield Case("GatherND", (x, n(4, 1, low=0, high=3)), {"batch_dims": 1}, note="batch")
    for reduction in ("none", "add", "mul", "max", "min"):
        rows = np.array([[0, 1, 2], [2, 0, 1]])
        yield Case("ScatterElements", (f(4, 3), rows, f(2, 3, seed=1)), {"axis": 0, "reduction": reduction},
                   note=reduction)  # fmt: skip
        yield Case("ScatterND", (f(4, 3), np.array([[1], [-1]]), f(2, 3, seed=1)), {"reduction": reduction},
                   note=reduction)  # fmt: skip
    yield Case("Scatter", (f(4, 3), np.array([[0, 1, 2]]), f(1, 3, seed=1)), opset=10, reference="ort")
    yield Case("TensorScatter", (f(2, 4, 3), f(2, 2, 3, seed=1), i64(1, 2)), opset=24)
    yield Case("OneHot", (n(2, 3, low=-3, high=4), scalar(4, np.int64), scalar([0.5, 2.0])), {"axis": 1})
    yield Case("Trilu", (f(2, 4, 5), scalar(1, np.int64)), {"upper": 0})
    yield Case("Trilu", (f(4, 5),), note="upper")
    tied = n(3, 8, low=0, high=3).astype(np.float32)
    for largest in (0, 1):
        yield Case("TopK", (tied, i64(3)), {"axis": -1, "largest": largest}, outputs=2, reference="ort",
                   note=f"largest-{largest}")  # fmt: skip
    yield Case("TopK", (f(3, 8),), {"k": 2}, opset=9, outputs=2, reference="ort")
    yield Case("ReverseSequence", (f(4, 3, 2), i64(1, 4, 2)))
    yield Case("NonZero", (n(3, 4, low=0, high=2),))
    yield Case("Compress", (f(4, 3), np.array([True, False, True])), {"axis": 0})
    yield Case("Unique", (n(9, low=0, high=4),), outputs=4)
    yield Case("Unique", (n(9, low=0, high=4),), {"sorted": 0}, outputs=4, note="unsorted")


def _generators() -> Iterator[Case]:
    yield Case("Constant", (), {"value": numpy_helper.from_array(f(2, 3))})
    yield Case("Constant", (), {"value_ints": [1, 2]}, note="ints")
    yield Case("ConstantOfShape", (i64(2, 3),), {"value": numpy_helper.from_array(np.array([7], np.int64))})
    yield Case("Range", (scalar(2, np.int64), scalar(11, np.int64), scalar(3, np.int64)))
    yield Case("Range", (scalar(1.0), scalar(-1.0), scalar(-0.3)), note="down")
    yield Case("EyeLike", (f(3, 4),), {"k": 1})
    for op_type in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        yield Case(op_type, (scalar(8, np.int64),))
        yield Case(op_type, (scalar(8, np.int64),), {"periodic": 0}, note="symmetric", reference="ort")
    values = [scalar(value, np.int64) for value in (8, 16, 8000)]
    yield Case("MelWeightMatrix", (*values, scalar(0.0), scalar(4000.0)), reference="ort")


def _images() -> Iterator[Case]:
    x = f(1, 2, 4, 5)
    scales = np.array([1, 1, 1.7, 0.6], np.float32)
    for mode in ("nearest", "linear", "cubic"):
        for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
            # ONNX Runtime cuts the new length to an integer before it aligns corners; the specification does not.
            reference = "onnx" if coordinates == "align_corners" else "ort"
            yield Case("Resize", (x, None, scales), attributes, reference=reference, note=f"{mode}-{coordinates}")
        yield Case("Resize", (x, None, None, i64(1, 2, 7, 3)), {"mode": mode}, reference="ort", note=f"{mode}-sizes")
    for scale in (0.7, 0.6, 2.3):  # times ten, in float32: a whole number that float64 falls short of
        scales = np.array([1, 1, scale], np.float32)
        yield Case("Resize", (f(1, 1, 10), None, scales), {"mode": "linear"}, reference="ort", note=f"by-{scale}")
    for mode in ("linear", "cubic"):
        yield Case("Resize", (x, None, np.array([1, 1, 0.6, 0.5], np.float32)), {"mode": mode, "antialias": 1},
                   note=f"{mode}-antialias")  # fmt: skip
    roi = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.3], np.float32)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    yield Case("Resize", (x, roi, None, i64(1, 2, 3, 4)), attributes, reference="ort", note="crop")
    yield Case("Resize", (x, np.array([1, 1, 2, 2], np.float32)), opset=10, reference="ort")
    yield Case("Upsample", (x,), {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 3.0]}, opset=8, reference="ort")
    yield Case("Upsample", (x, np.array([1, 1, 2, 3], np.float32)), {"mode": "nearest"}, opset=9, reference="ort")
    grid = f(1, 3, 3, 2, seed=1, low=-1.2, high=1.2)
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            yield Case("GridSample", (x, grid), {"mode": mode, "padding_mode": padding}, reference="ort",
                       note=f"{mode}-{padding}")  # fmt: skip
    yield Case("AffineGrid", (f(1, 2, 3), i64(1, 1, 3, 4)))
    yield Case("AffineGrid", (f(1, 2, 3), i64(1, 1, 3, 4)), {"align_corners": 1}, note="aligned")


def _signals() -> Iterator[Case]:
    yield Case("DFT", (f(1, 8, 1), None, scalar(1, np.int64)))
    yield Case("DFT", (f(1, 8, 2), None, scalar(1, np.int64)), {"inverse": 1}, note="inverse")
    yield Case("DFT", (f(1, 8, 1), scalar(6, np.int64), scalar(1, np.int64)), {"onesided": 1}, note="onesided")
    yield Case("DFT", (f(1, 8, 1),), {"axis": 1}, opset=17)
    yield Case("STFT", (f(1, 32, 1), scalar(8, np.int64), f(16, seed=1, low=0), scalar(16, np.int64)))


def _attentions() -> Iterator[Case]:
    q, k, v = f(2, 4, 3, 8), f(2, 2, 5, 8, seed=1), f(2, 2, 5, 6, seed=2)
    yield Case("Attention", (q, k, v), note="grouped")
    yield Case("Attention", (q, k, v, f(3, 5, seed=3)), {"scale": 0.2, "softcap": 3.0}, note="mask-softcap")
    yield Case("Attention", (q, k, v, boolean(2, 1, 3, 5)), note="boolean")
    yield Case("Attention", (q, k, v), {"is_causal": 1}, note="causal")
    past = (f(2, 2, 4, 8, seed=4), f(2, 2, 4, 6, seed=5))
    yield Case("Attention", (q, k, v, None, *past), outputs=3, note="past")
    flat = (f(2, 3, 32), f(2, 5, 32, seed=1), f(2, 5, 32, seed=2))
    yield Case("Attention", flat, {"q_num_heads": 4, "kv_num_heads": 4}, note="flat")
    cos, sin = f(16, 4, seed=1), f(16, 4, seed=2)
    positions = n(2, 3, low=0, high=16)
    for interleaved in (0, 1):
        yield Case("RotaryEmbedding", (f(2, 4, 3, 8), cos, sin, positions), {"interleaved": interleaved},
                   note=f"interleaved-{interleaved}")  # fmt: skip
    yield Case("RotaryEmbedding", (f(2, 3, 32), f(16, 2, seed=1), f(16, 2, seed=2), positions),
               {"num_heads": 4, "rotary_embedding_dim": 4}, note="partial")  # fmt: skip


def _recurrent() -> Iterator[Case]:
    for op_type, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, count in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            values = [
                f(5, 2, 3, seed=1),
                f(count, gates * 4, 3, seed=2, low=-0.7, high=0.7),
                f(count, gates * 4, 4, seed=3, low=-0.7, high=0.7),
                f(count, 2 * gates * 4, seed=4),
                np.array([5, 3], np.int32),
                f(count, 2, 4, seed=5),
            ]
            attributes = {"hidden_size": 4, "direction": direction}
            outputs = 2
            if op_type == "LSTM":
                values += [f(count, 2, 4, seed=6), f(count, 12, seed=7)]
                outputs = 3
            yield Case(op_type, tuple(values), attributes, outputs=outputs, reference="ort", note=direction)
    gru = (f(5, 2, 3, seed=1), f(1, 12, 3, seed=2), f(1, 12, 4, seed=3), f(1, 24, seed=4))
    yield Case("GRU", gru, {"hidden_size": 4, "linear_before_reset": 1}, outputs=2, reference="ort", note="linear")
    lstm = (f(5, 2, 3, seed=1), f(1, 16, 3, seed=2), f(1, 16, 4, seed=3))
    options = {"hidden_size": 4, "clip": 0.5, "activations": ["HardSigmoid", "Tanh", "Relu"],
               "activation_alpha": [0.3], "activation_beta": [0.4]}  # fmt: skip
    yield Case("LSTM", lstm, options, outputs=3, reference="ort", note="activations")
    options = {"hidden_size": 4, "activations": ["Sigmoid", "LeakyRelu", "Tanh"], "activation_alpha": [0.3]}
    yield Case("LSTM", lstm, options, outputs=3, reference="ort", note="second-takes-alpha")


def _quantized() -> Iterator[Case]:
    scale, zero = scalar(0.05), scalar(3, np.int8)
    yield Case("QuantizeLinear", (f(3, 4, high=9), scale, zero))
    yield Case("QuantizeLinear", (f(3, 4, low=0), f(4, seed=1, low=0.01, high=0.1), n(4, dtype=np.uint8, low=0)))
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 200, -200], np.float32)
    yield Case("QuantizeLinear", (halves, scalar(1.0), scalar(0, np.int8)), note="halves-to-even")
    yield Case("DequantizeLinear", (n(3, 4, dtype=np.int8), scale, zero))
    yield Case("DequantizeLinear", (n(3, 4, dtype=np.int8), f(3, seed=1, low=0.1), n(3, seed=2, dtype=np.int8)),
               {"axis": 0}, note="per-axis")  # fmt: skip
    yield Case("DequantizeLinear", (n(3, 4, dtype=np.int8), f(3, 2, seed=1, low=0.1)), {"axis": 1, "block_size": 2},
               note="blocks")  # fmt: skip
    yield Case("DynamicQuantizeLinear", (f(3, 4),), outputs=3)
    a, b = n(3, 4, low=0, high=256, dtype=np.uint8), n(4, 5, seed=1, low=-128, high=128, dtype=np.int8)
    yield Case("MatMulInteger", (a, b, scalar(7, np.uint8), scalar(2, np.int8)))
    yield Case("MatMulInteger", (a, b), note="no-zeros")
    yield Case("QLinearMatMul", (a, scale, scalar(7, np.uint8), b, scalar(0.02), scalar(0, np.int8), scalar(3.0),
                                 scalar(9, np.uint8)), reference="ort")  # fmt: skip
    x, w = n(1, 3, 6, 6, low=0, high=256, dtype=np.uint8), n(4, 3, 3, 3, seed=1, low=0, high=256, dtype=np.uint8)
    yield Case("ConvInteger", (x, w, scalar(9, np.uint8), scalar(3, np.uint8)), {"pads": [1, 1, 0, 0]})
    yield Case("QLinearConv", (x, scale, scalar(9, np.uint8), w, f(4, seed=1, low=0.01, high=0.1), n(4, low=0,
               dtype=np.uint8), scalar(8.0), scalar(5, np.uint8), n(4, dtype=np.int32)), reference="ort")  # fmt: skip


CONTROL_FLOW = ("If", "Loop", "Scan")
"""Tested on whole graphs in test_control_flow.py: a one-node case cannot hold a subgraph."""

CASES: tuple[Case, ...] = tuple(
    case
    for family in (
        _unary, _binary, _casts, _reductions, _products, _convolutions, _pools, _norms, _shapes, _indices, _generators,
        _images, _signals, _attentions, _recurrent, _quantized,
    )
    for case in family()
)  # fmt: skip
