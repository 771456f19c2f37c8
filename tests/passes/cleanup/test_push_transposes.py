from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Budget, Context
from passes.cleanup.push_transposes import PushTransposes
from tests.support.golden import assert_refused, assert_rewritten, transformed
from tests.support.rewriting import graph_from, rewrite

PASS = "push-transposes"
IN, OUT = "Transpose <perm = [0, 3, 1, 2]>", "Transpose <perm = [0, 2, 3, 1]>"
INTS = " ".join(f"i{n} = Constant <value = int64[1] {{{n}}}> ()" for n in range(4))
SIGNATURE = "g (float[2,4,5,3] x, float[2,4,5,3] z, float[2,3,4,5] w, bool[2,4,5,3] c) => (float[{dims}] y)"


def _count(model: ir.Model) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph.all_nodes())


def _read(text: str, weights: dict[str, np.ndarray]) -> str:
    """Return the text with the weights among its inputs, where golden checks look for them."""
    given = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    return text.replace("g (", f"g ({given}, ", 1) if given else text


def _text(body: str, dims: str = "a,b,c,d") -> str:
    return f"{SIGNATURE.format(dims=dims)} {{ {INTS} {body} }}"


BETWEEN = {
    "unary": "b = Relu (a)",
    "chain": "d = Sigmoid (a) e = Neg (d) b = Clip (e)",
    "clip bounds": "m = Constant <value = float {0.1}> () b = Clip (a, m)",
    "cast": "d = Cast <to = 11> (a) b = Cast <to = 1> (d)",
    "scalar": "m = Constant <value = float {2.0}> () b = Mul (a, m)",
    "one element of full rank": "m = Constant <value = float[1,1,1,1] {2.0}> () b = Sub (m, a)",
    "a channel's constant": "m = Constant <value = float[3,1,1] {1.0, 2.0, 3.0}> () b = Add (m, a)",
    "a constant over the last axis": "m = Constant <value = float[5] {1.0, 2.0, 3.0, 4.0, 5.0}> () b = Mul (a, m)",
    "slopes": "m = Constant <value = float[3,1,1] {0.5, 0.2, 0.1}> () b = PRelu (a, m)",
    "twice the same": "b = Mul (a, a)",
    "both transposed": f"a2 = {IN} (z) b = Sub (a, a2)",
    "three transposed": f"a2 = {IN} (z) c2 = {IN} (c) b = Where (c2, a, a2)",
    "sum": f"a2 = {IN} (z) b = Sum (a, a2, a)",
    "softmax": "b = Softmax <axis = 1> (a)",
    "softmax from behind": "b = LogSoftmax <axis = -2> (a)",
    "concat": f"a2 = {IN} (z) b = Concat <axis = 1> (a, a2)",
    "concat from behind": f"a2 = {IN} (z) b = Concat <axis = -1> (a, a2)",
    "concat of a constant": """m = Constant <value = float[1,1,1,1] {7.0}> ()
        s = Constant <value = int64[3] {0, 2, 3}> () r = ReduceMax (a, s) b = Concat <axis = 1> (r, m, r)""",
    "split": "d, e = Split <axis = 3, num_outputs = 2> (a) b = Concat <axis = 3> (e, d)",
    "slice": "b = Slice (a, i1, i3, i2)",
    "slice without axes": """s = Constant <value = int64[2] {0, 1}> () e = Constant <value = int64[2] {2, 3}> ()
        b = Slice (a, s, e)""",
    "slice from behind": "m = Constant <value = int64[1] {-1}> () b = Slice (a, i1, i3, m, i2)",
    "pad": "p = Constant <value = int64[8] {0, 1, 2, 0, 3, 0, 1, 1}> () b = Pad (a, p)",
    "pad of axes": """p = Constant <value = int64[4] {1, 2, 3, 0}> () m = Constant <value = float {2.5}> ()
        q = Constant <value = int64[2] {1, -1}> () b = Pad (a, p, m, q)""",
    "pad by reflection": """p = Constant <value = int64[8] {0, 0, 2, 1, 0, 1, 1, 0}> ()
        b = Pad <mode = "reflect"> (a, p)""",
    "reduction": "s = Constant <value = int64[2] {-1, 1}> () b = ReduceMean (a, s)",
    "reduction of all": "b = ReduceMax (a)",
    "index": "d = ArgMax <axis = 1> (a) b = Cast <to = 1> (d)",
    "cumulative": "s = Constant <value = int64 {3}> () b = CumSum <reverse = 1> (a, s)",
    "quantized": """s = Constant <value = float {0.1}> () d = QuantizeLinear <output_dtype = 3> (a, s)
        b = DequantizeLinear (d, s)""",
    "quantized by channel": """s = Constant <value = float[3] {0.1, 0.2, 0.3}> ()
        d = QuantizeLinear <axis = -3, output_dtype = 3> (a, s) b = DequantizeLinear (d, s)""",
    "something of one element": "t = ReduceSum (x) u = Squeeze (t) b = Mul (a, u)",
}


@pytest.mark.parametrize("body", BETWEEN.values(), ids=BETWEEN)
def test_an_operator_between_two_transposes_is_written_for_the_order_outside(body: str) -> None:
    after, results = transformed(_text(f"a = {IN} (x) {body} y = {OUT} (b)"), PASS, is_exact="mean" not in body.lower())
    assert _count(after) == 0
    assert {event.rule for event in results[0].applied} == {"transpose-region"}


def test_the_text_says_what_moved() -> None:
    body = f"""a = {IN} (x) k = Constant <value = float[3,1,1] {{1.0, 2.0, 3.0}}> () b = Add (a, k)
        d = Softmax <axis = 1> (b) y = {OUT} (d)"""
    assert_rewritten(
        _text(body).replace(INTS, ""),
        f"{PASS},eliminate-dead-code",
        """
        k_moved = float[1,1,1,3] {1.0, 2.0, 3.0}
        b_1 = Add (x, k_moved)
        y = Softmax <axis: int = 3> (b_1)
        """,
    )


READERS = {
    "reduction": ("s = Constant <value = int64[2] {2, 3}> () y = ReduceMean <keepdims = 0> (a, s)", "2,3"),
    "reduction of the last": (
        "s = Constant <value = int64[1] {-1}> () t = Constant <value = int64[2] {1, -1}> ()"
        " d = ReduceSum <keepdims = 0> (a, t) y = Neg (d)",
        "2,4",
    ),
    "reduction of all": ("d = ReduceMax <keepdims = 0> (a) y = Unsqueeze (d, i0)", "1"),
    "index": ("d = ArgMin <axis = 1, keepdims = 0> (a) y = Cast <to = 1> (d)", "2,4,5"),
}


@pytest.mark.parametrize(("body", "dims"), READERS.values(), ids=READERS)
def test_a_reader_that_takes_axes_away_reads_before_the_transpose(body: str, dims: str) -> None:
    after, results = transformed(_text(f"a = {IN} (x) {body}", dims), PASS)
    assert _count(after) == 0
    assert [event.rule for event in results[0].applied] == ["transpose-into-readers"]


def test_a_reduction_that_leaves_other_orders_keeps_its_transpose() -> None:
    body = f"a = {IN} (x) y = ReduceSum <keepdims = 0> (a, i2)"
    after, results = transformed(_text(body, "2,3,5"), PASS)
    assert _count(after) == 1
    assert results[0].applied == ()


@pytest.mark.parametrize(("first", "second"), [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")])
def test_gemm_transposes_by_itself(first: str, second: str) -> None:
    dims = ("4,3" if first == "0" else "3,4", "5,4" if second == "0" else "4,5")
    text = f"""g (float[{dims[0]}] x, float[{dims[1]}] z) => (float[3,5] y) {{
        a = Transpose <perm = [1, 0]> (x) b = Transpose <perm = [1, 0]> (z)
        y = Gemm <transA = {first}, transB = {second}> (a, b) }}"""
    after, _ = transformed(text, PASS)
    (node,) = after.graph
    assert (node.attributes["transA"].as_int(), node.attributes["transB"].as_int()) == (1 - int(first), 1 - int(second))


def test_a_transpose_before_matmul_stays() -> None:
    text = "g (float[4,3] x, float[4,5] z) => (float[3,5] y) { a = Transpose <perm = [1, 0]> (x) y = MatMul (a, z) }"
    after, results = transformed(text, PASS)
    assert _count(after) == 1
    assert results[0].applied == ()


ONES = {
    "reshape": ("2,1,1,3", "0, 3, 1, 2", "s = Constant <value = int64[2] {0, -1}> () y = Reshape (a, s)", 0),
    "flatten": ("2,1,1,3", "0, 3, 1, 2", "y = Flatten <axis = 1> (a)", 0),
    "a 0 copies what moved": ("2,1,3", "0, 2, 1", "s = Constant <value = int64[2] {0, 0}> () y = Reshape (a, s)", 1),
    "flatten between": ("1,2,3", "1, 0, 2", "y = Flatten <axis = 1> (a)", 1),
    "elements move": ("2,4,3", "0, 2, 1", "s = Constant <value = int64[2] {0, -1}> () y = Reshape (a, s)", 1),
}


@pytest.mark.parametrize(("dims", "perm", "body", "left"), ONES.values(), ids=ONES)
def test_a_reshape_does_not_see_that_axes_of_one_moved(dims: str, perm: str, body: str, left: int) -> None:
    text = f"g (float[{dims}] x) => (float[A,B] y) {{ a = Transpose <perm = [{perm}]> (x) {body} }}"
    after, _ = transformed(text, PASS, is_exact=True)
    assert _count(after) == left


def test_norms_and_products_over_the_last_axis_let_the_others_change() -> None:
    text = """g (float[2,5,8] x) => (float[2,5,8] y) {
        a = Transpose <perm = [1, 0, 2]> (x) n = LayerNormalization <axis = -1> (a, s)
        m = MatMul (n, w) r = RMSNormalization (m, s) b = Add (r, a) y = Transpose <perm = [1, 0, 2]> (b) }"""
    weights = {"s": np.linspace(0.5, 1, 8, dtype=np.float32), "w": np.eye(8, dtype=np.float32)}
    after, _ = transformed(_read(text, weights), PASS, weights=weights)
    assert _count(after) == 0
    assert after.graph.initializers["w"].const_value is not None


RESIDUAL = f"""
    a0 = {IN} (x)
    n0 = LayerNormalization (x, s) t0 = {IN} (n0) r0 = Add (t0, a0) c0 = Conv (r0, k)
    u1 = {OUT} (c0) n1 = LayerNormalization (u1, s) t1 = {IN} (n1) r1 = Add (t1, r0) c1 = Conv (r1, k)
    u2 = {OUT} (c1) n2 = LayerNormalization (u2, s) t2 = {IN} (n2) r2 = Add (t2, r1)
    y = {OUT} (r2)
"""


def test_a_residual_stream_takes_the_order_of_most_of_its_readers() -> None:
    weights = {"s": np.linspace(0.5, 1, 3, dtype=np.float32), "k": np.ones((3, 3, 1, 1), np.float32)}
    text = f"g (float[2,4,5,3] x) => (float[2,4,5,3] y) {{ {RESIDUAL} }}"
    assert text.count("Transpose") == 7
    after, _ = transformed(_read(text, weights), PASS, weights=weights)
    assert _count(after) == 4  # one on each side of both convolutions


def test_only_the_part_that_saves_a_transpose_is_turned() -> None:
    body = f"a = {IN} (x) b = Relu (a) d = Neg (b) e = Add (d, w) f = Conv (e, k) v = {OUT} (b) y = Mul (v, z)"
    weights = {"k": np.ones((3, 3, 1, 1), np.float32)}
    text = _text(body.replace("y = Mul (v, z)", f"o = {OUT} (f) q = Mul (v, z) y = Add (q, o)"))
    after, _ = transformed(_read(text, weights), PASS, weights=weights)
    assert _count(after) == 2
    (relu,) = [node for node in after.graph if node.op_type == "Relu"]
    assert relu.inputs[0] is after.graph.inputs[0]


def test_an_nhwc_network_keeps_one_transpose_on_each_side() -> None:
    layers = []
    value = "x"
    for index in range(4):
        layers.append(
            f"p{index} = {IN} ({value}) v{index} = Conv (p{index}, k) q{index} = {OUT} (v{index})"
            f" b{index} = Add (q{index}, s) r{index} = Relu (b{index})"
        )
        value = f"r{index}"
    text = f"g (float[2,4,5,3] x) => (float[2,4,5,3] y) {{ {' '.join(layers)} y = Identity ({value}) }}"
    weights = {"s": np.linspace(0.5, 1, 3, dtype=np.float32), "k": np.ones((3, 3, 1, 1), np.float32)}
    after, _ = transformed(_read(text, weights), PASS, weights=weights)
    assert _count(after) == 2


def test_what_else_reads_a_turned_value_gets_one_transpose() -> None:
    text = f"""g (float[2,4,5,3] x, float[2,4,5,3] z) => (float[2,4,5,3] y, float[2,3,4,5] o, float[2,3,4,5] m) {{
        a = {IN} (x) a2 = {IN} (z) o = Add (a, a2) y = {OUT} (o) m = GlobalLpPool (o) }}""".replace(
        "GlobalLpPool (o)", "MatMul (o, k)"
    ).replace("float[2,3,4,5] m", "float[2,3,4,4] m")
    weights = {"k": np.ones((5, 4), np.float32)}
    after, _ = transformed(_read(text, weights), PASS, weights=weights)
    assert _count(after) == 1
    assert [value.name for value in after.graph.outputs] == ["y", "o", "m"]


def test_a_branch_is_turned_as_well() -> None:
    text = f"""g (bool c, float[2,4,5,3] x) => (float[2,4,5,3] y) {{
        y = If (c) <
            then_branch = t () => (float[2,4,5,3] o) {{ a = {IN} (x) b = Relu (a) o = {OUT} (b) }},
            else_branch = e () => (float[2,4,5,3] p) {{ p = Neg (x) }}
        > }}"""
    after, _ = transformed(text, PASS)
    assert _count(after) == 0


REFUSED = {
    "weight": ("k2 = Identity (a) b = Mul (a, big)", "too large to be transposed"),
    "fewer axes": ("q = ReduceMax <keepdims = 0> (z, i0) b = Add (a, q)", "fewer axes"),
    "norm": ("b = LayerNormalization <axis = -1> (a, s)", "axes that it normalizes"),
    "product": ("b = MatMul (a, m)", "axis that it multiplies"),
    "amounts": ("p = Shape (a) q = Concat <axis = 0> (p, p) r = Sub (q, q) b = Pad (a, r)", "amounts are not constant"),
    "slice": ("p = Shape <start = 0, end = 1> (c) r = Sub (p, i1) b = Slice (a, i0, i2, r)", "axes are not constant"),
    "reduction": ("p = Shape <start = 0, end = 1> (c) r = Sub (p, i1) b = ReduceSum (a, r)", "axes are not constant"),
    "sum along": ("p = Shape <start = 0, end = 1> (c) r = Sub (p, i1) b = CumSum (a, r)", "axis is not constant"),
}


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(body: str, reason: str) -> None:
    weights = {"s": np.ones(5, np.float32), "m": np.ones((5, 5), np.float32)}
    text = _text(f"a = {IN} (x) {body} y = {OUT} (b)")
    if "big" in body:
        text = text.replace("2,4,5,3", "1,64,64,8").replace("2,3,4,5", "1,8,64,64").replace("k2 = Identity (a)", "")
        weights["big"] = np.ones((8, 64, 64), np.float32)
    if "ReduceMax" in body:
        text = text.replace("[2,4,5,3] z", "[2,3,4,5] z")
    weights = {name: array for name, array in weights.items() if f" {name})" in text}
    assert_refused(_read(text, weights), PASS, reason, weights=weights)


NOT_FEWER = {
    "one at one side": f"a = {IN} (x) b = Relu (a) y = Add (b, w)",
    "as many as before": f"a = {IN} (x) q = GlobalAveragePool (w) b = Sum (a, w, q) y = {OUT} (b)",
}


@pytest.mark.parametrize("body", NOT_FEWER.values(), ids=NOT_FEWER)
def test_nothing_changes_where_as_many_would_be_left(body: str) -> None:
    text = _text(body)
    after, results = transformed(text, PASS)
    assert _count(after) == text.count("Transpose")
    assert results[0].applied == ()


def test_transposes_that_do_not_cancel_become_one() -> None:
    body = f"a = {IN} (x) b = Relu (a) y = {IN} (b)"
    expected = "b_1 = Relu (x) y = Transpose <perm: ints = [0, 2, 3, 1]> (b_1)".replace(" y =", "\ny =")
    assert_rewritten(_text(body).replace(INTS, ""), PASS, expected)


def test_old_operator_sets_are_left_alone() -> None:
    text = f"g (float[2,4,5,3] x) => (float[2,4,5,3] y) {{ a = {IN} (x) b = Softmax (a) y = {OUT} (b) }}"
    _, results = transformed(text, PASS, opset=11)
    assert results[0].applied == ()


def test_a_spent_budget_leaves_the_graph_as_it_was() -> None:
    model = graph_from(_text(f"a = {IN} (x) b = Relu (a) y = {OUT} (b)"))
    result = PushTransposes().run(model, Context(budget=Budget(0)))
    assert result.applied == ()
    assert _count(model) == 2


REGIONS = {
    "a reduction that takes axes away joins two ranks": """g (float[3,2,4,5] x) => (float[4,2,5] y, float[3,2,4,5] z) {
        m = Constant <value = int64[1] {0}> () t = Sigmoid (x) r = ReduceMax <keepdims = 0> (t, m)
        n = Neg (r) p = Transpose <perm = [1, 0, 2]> (n) y = Abs (p) z = Softmax <axis = 3> (t) }""",
    "a Transpose with its operand inside": """g (float[2,4,4,4] x) => (float[4,4,4,4] y, float[2,4,1,1] r) {
        a = Abs (x) b = Neg (a) t = Transpose <perm = [0, 2, 1, 3]> (a) c = Concat <axis = 0> (b, t)
        y = Transpose <perm = [2, 3, 0, 1]> (c) m = Constant <value = int64[2] {2, 3}> () r = ReduceMean (b, m) }""",
    "an identity among the Transposes": """g (float[2,3,4,5] x) => (float[2,4,3,5] y, float[2,3,4,5] z) {
        a = Abs (x) i = Transpose <perm = [0, 1, 2, 3]> (a) t = Transpose <perm = [0, 2, 1, 3]> (i)
        y = Neg (t) z = Sigmoid (i) }""",
}


@pytest.mark.parametrize("text", REGIONS.values(), ids=list(REGIONS))
def test_regions_of_unlike_values_end_and_stay_right(text: str) -> None:
    model, before = graph_from(text), _count(graph_from(text))
    for _ in range(4):
        model, result = rewrite(model, PushTransposes())
        assert _count(model) <= before
        before = _count(model)
    assert not result.applied
