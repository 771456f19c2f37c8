"""If, Loop and Scan, against ONNX Runtime: known at trace time, and while the program runs."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from passes.errors import BuildFailed
from tests.support.small_models import unoptimized
from tests.targets.xla.test_operators import lowered

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'

IF = """g (float[n, 3] x, bool which) => (float[n, 3] y) {
    y = If (which) <
        then_branch = t () => (float[n, 3] a) { a = Add(x, x) },
        else_branch = e () => (float[n, 3] b) { b = Neg(x) }
    >
}"""
IF_KNOWN = """g (float[n, 3] x) => (float[n, m] y) {
    s = Shape <start = 1> (x)
    three = Constant <value_ints = [3]> ()
    same = Equal(s, three)
    which = Squeeze(same)
    y = If (which) <
        then_branch = t () => (float[n, m] a) { a = Concat <axis = 1> (x, x) },
        else_branch = e () => (float[n, m] b) { b = Neg(x) }
    >
}"""
LOOP = """g (float[2] x) => (float[2] last, float[trips, 2] all) {
    trips = Constant <value_int = TRIPS> ()
    true = Constant <value = bool {1}> ()
    last, all = Loop (trips, true, x) <
        body = b (int64 i, bool c, float[2] state) => (bool kept, float[2] next, float[2] out) {
            kept = Identity(c)
            f = Cast <to = 1> (i)
            next = Add(state, f)
            out = Mul(next, x)
        }
    >
}"""
WHILE = """g (float[2] x, int64 limit) => (float[2] last) {
    true = Constant <value = bool {1}> ()
    last = Loop (limit, true, x) <
        body = b (int64 i, bool c, float[2] state) => (bool kept, float[2] next) {
            next = Add(state, state)
            total = ReduceSum <keepdims = 0> (next)
            most = Constant <value_float = 50.0> ()
            kept = Less(total, most)
        }
    >
}"""
SCAN = """g (float[2] start, float[5, 2] xs) => (float[2] last, float[5, 2] sums) {
    last, sums = Scan <num_scan_inputs = 1, scan_output_directions = [1],
        body = b (float[2] state, float[2] x) => (float[2] next, float[2] out) {
            next = Add(state, x)
            out = Identity(next)
        }
    > (start, xs)
}"""


def parsed(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(HEADER + text))


def check(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = parsed(text)
    actual = lowered(model, feeds)
    expected = list(unoptimized(model, feeds).values())
    assert len(actual) == len(expected) > 0
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6)


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("which", [True, False])
def test_if_decided_while_running(which: bool):
    check(IF, {"x": X, "which": np.array(which)})


def test_if_known_from_a_shape_takes_one_branch_only():
    check(IF_KNOWN, {"x": X})


def test_each_branch_has_its_own_weight_of_one_name():
    def branch(factor: float) -> ir.Graph:
        weight = ir.Value(name="w", const_value=ir.tensor(np.full((3, 32), factor, np.float32), name="w"))
        product = ir.node("MatMul", [x, weight])
        return ir.Graph([], product.outputs, nodes=[product], initializers=[weight], name="branch")

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3]))
    which = ir.Value(name="which", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    chosen = ir.node("If", [which], {"then_branch": branch(1.0), "else_branch": branch(2.0)})
    chosen.outputs[0].name = "y"
    chosen.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x, which], chosen.outputs, nodes=[chosen], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    for value in (True, False):
        feeds = {"x": X, "which": np.array(value)}
        np.testing.assert_array_equal(lowered(model, feeds)[0], next(iter(unoptimized(model, feeds).values())))


FUNCTION = """g (float[n, 32] x) => (float[n, 32] y, float[n, 32] z) {
    c = Constant <value_floats = [LARGE]> ()
    y = Add(x, c)
    z = local.f(x)
}
<opset_import: ["" : 20], domain: "local">
f (a) => (b) {
    c = Constant <value = float[32] {SMALL}> ()
    b = Add(a, c)
}"""


def test_a_function_s_constant_is_not_the_main_graph_s_of_that_name():
    text = FUNCTION.replace("value_floats = [LARGE]", f"value = float[32] {{{', '.join(['2.0'] * 32)}}}")
    text = text.replace("SMALL", ", ".join(["1.0"] * 32))
    header = HEADER.replace('"" : 20', '"" : 20, "local" : 1')
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    y, z = lowered(model, {"x": np.zeros((1, 32), np.float32)})
    assert (y == 2).all()
    assert (z == 1).all()


@pytest.mark.parametrize("trips", [3, 40], ids=["unrolled", "scanned"])
def test_loop_with_scan_outputs(trips: int):
    check(LOOP.replace("TRIPS", str(trips)), {"x": np.array([1, 2], np.float32)})


COUNTED = LOOP.replace("kept = Identity(c)", "most = Constant <value_int = 3> ()\n            kept = Less(i, most)")


def test_loop_that_ends_by_its_iteration_number():
    check(COUNTED.replace("TRIPS", "10"), {"x": np.array([1, 2], np.float32)})


def test_long_loop_that_ends_by_its_iteration_number():
    text = COUNTED.replace("TRIPS", "40").replace(", float[trips, 2] all", "").replace("last, all", "last")
    check(
        text.replace(", float[2] out", "").replace("            out = Mul(next, x)\n", ""),
        {"x": np.array([1, 2], np.float32)},
    )


@pytest.mark.parametrize("limit", [2, 100])
def test_loop_that_ends_by_its_condition(limit: int):
    check(WHILE, {"x": np.array([1, 2], np.float32), "limit": np.array(limit)})


def test_scan_reversed_output():
    check(SCAN, {"start": np.zeros(2, np.float32), "xs": np.arange(10, dtype=np.float32).reshape(5, 2)})


def test_refuses_scan_outputs_of_unknown_number():
    text = LOOP.replace("float[2] x)", "float[2] x, int64 trips)").replace(
        "    trips = Constant <value_int = TRIPS> ()\n", ""
    )
    with pytest.raises(BuildFailed, match="number of scan outputs depends on the data"):
        lowered(parsed(text), {"x": np.ones(2, np.float32), "trips": np.array(3)})
