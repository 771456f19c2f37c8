from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.cleanup.fold_shapes import FoldShapes
from passes.fusion.fuse_attention import FuseAttention
from passes.matching import constant_array
from passes.pipeline import Pipeline
from tests.support.rewriting import add_weights, counts, graph_from, operators, random_array, reasons, rewrite

LOWEST = "-3.4028234663852886e38"
B, H, S, D = 2, 2, 5, 4


def _constants() -> str:
    return f"""
        root = Constant <value = float {{0.70710678}}> ()
        scale = Constant <value = float {{0.5}}> ()
        two = Constant <value = float {{2.0}}> ()
        zero = Constant <value = float {{0.0}}> ()
        lowest = Constant <value = float {{{LOWEST}}}> ()
        split = Constant <value = int64[4] {{0, 0, 2, 4}}> ()
        merge = Constant <value = int64[3] {{0, 0, 8}}> ()
        fill = Constant <value_float = {LOWEST}> ()
    """


def _model(
    body: str, *, mask: str = "bool[B,1,S,S] mask", outputs: str = "float[B,2,S,4] y", opset: int = 23
) -> ir.Model:
    text = f"""g (float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v, {mask}, float ninf) => ({outputs}) {{
        {_constants()} {body} }}"""
    return add_weights(graph_from(text, opset=opset), ninf=np.array(-np.inf, np.float32))


def _feeds(mask: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
    names = zip("qkv", (1, 2, 3), strict=True)
    return ({**{name: random_array(B, H, S, D, seed=seed) for name, seed in names}, "mask": mask},)


def _masks() -> dict[str, np.ndarray]:
    partial = np.ones((B, 1, S, S), bool)
    partial[1, :, :, 3:] = False
    row = partial.copy()
    row[1, 0, 2] = False  # a row that sees nothing
    return {"partial": partial, "one row hidden": row}


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


SDPA = """qs = Mul (q, root) kt = Transpose <perm = [0, 1, 3, 2]> (k) ks = Mul (kt, root) s = MatMul (qs, ks)
    {mask} p = Softmax <axis = -1> (m) n = IsNaN (p) g = Where (n, zero, p) y = MatMul (g, v)"""
EAGER = """kt = Transpose <perm = [0, 1, 3, 2]> (k) s0 = MatMul (q, kt) s = {scale}
    {mask} p = Softmax <axis = -1> (m) y = MatMul (p, v)"""


@pytest.mark.parametrize("hidden", _masks())
@pytest.mark.parametrize(
    ("mask", "added"),
    [
        ("w = Where (mask, zero, lowest) m = Add (s, w)", ["Where", "Attention"]),
        ("w = Where (mask, zero, lowest) m = Add (w, s)", ["Where", "Attention"]),
        ("w = Where (mask, zero, ninf) m = Add (s, w)", ["Attention"]),
        ("m = Where (mask, s, lowest)", ["Where", "Attention"]),
        ("m = Where (mask, s, ninf)", ["Attention"]),
    ],
)
def test_guarded_attention_with_a_boolean_mask_is_exact_also_where_a_row_is_hidden(
    mask: str, added: list[str], hidden: str
) -> None:
    after, result = rewrite(_model(SDPA.format(mask=mask)), FuseAttention(), feeds=_feeds(_masks()[hidden]))
    assert _ops(after) == added
    assert [event.rule for event in result.applied] == ["attention"]


@pytest.mark.parametrize("hidden", _masks())
@pytest.mark.parametrize("scale", ["Mul (s0, scale)", "Div (s0, two)", "Mul (scale, s0)"])
def test_eager_attention_with_the_lowest_float_is_exact_also_where_a_row_is_hidden(scale: str, hidden: str) -> None:
    body = EAGER.format(scale=scale, mask="w = Where (mask, zero, lowest) m = Add (s, w)")
    after, _ = rewrite(_model(body), FuseAttention(), feeds=_feeds(_masks()[hidden]))
    assert _ops(after) == ["Where", "Attention"]
    assert after.graph.node(-1).attributes["scale"].as_float() == 0.5


def test_a_float_mask_is_taken_as_it_is() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)")
    after, _ = rewrite(_model(body, mask="float[B,1,S,S] mask"), FuseAttention())
    assert _ops(after) == ["Attention"]
    assert after.graph.node(-1).inputs[3].name == "mask"


@pytest.mark.parametrize("shape", ["B,1,1,S", "1,S", "2,S,S", "S", "1,1,S,S"])
def test_a_mask_that_broadcasts_is_expanded_to_the_scores(shape: str) -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)")
    after, _ = rewrite(_model(body, mask=f"float[{shape}] mask"), FuseAttention(), FoldShapes())
    assert operators(after).count("Attention") == 1
    assert str(after.graph.node(-1).inputs[3].shape).endswith("S,S]")


def test_without_a_mask() -> None:
    after, _ = rewrite(_model(EAGER.format(scale="Div (s0, two)", mask="m = Identity (s)")), FuseAttention())
    assert "Attention" not in operators(after)  # Identity is removed by another pass first
    body = EAGER.format(scale="Div (s0, two)", mask="").replace("(m)", "(s)")
    after, _ = rewrite(_model(body), FuseAttention())
    assert _ops(after) == ["Attention"]


def test_an_unguarded_infinite_mask_is_refused_since_a_hidden_row_is_nan() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="w = Where (mask, zero, ninf) m = Add (s, w)")
    after, result = rewrite(_model(body), FuseAttention(), feeds=_feeds(_masks()["one row hidden"]))
    assert "Attention" not in operators(after)
    assert reasons(result) == ["the mask 'w' may hide a whole row: NaN here, 0 in Attention"]


def test_a_product_with_the_lowest_float_weighs_the_keys_of_a_hidden_row_alike_as_before() -> None:
    mask = "f = Cast <to = 1> (mask) one = Constant <value = float {1.0}> () h = Sub (one, f)"
    body = EAGER.format(scale="Mul (s0, scale)", mask=f"{mask} w = Mul (h, lowest) m = Add (s, w)")
    after, _ = rewrite(_model(body), FuseAttention(), feeds=_feeds(_masks()["one row hidden"]))
    assert _ops(after) == ["Cast", "Sub", "Mul", "Attention"]
    _, result = rewrite(after, FuseAttention())
    assert not result.applied


@pytest.mark.parametrize("factor", [-0.5, 0.0])
def test_a_factor_that_is_not_positive_is_refused_since_attention_takes_its_root(factor: float) -> None:
    body = EAGER.format(scale="Mul (s0, f)", mask="").replace("(m)", "(s)")
    model = add_weights(_model(body, mask="bool[B,1,S,S] mask, float f"), f=np.array(factor, np.float32))
    after, result = rewrite(model, FuseAttention(), feeds=_feeds(_masks()["partial"]))
    assert "Attention" not in operators(after)
    assert reasons(result) == [f"the scale is {factor:g}, and Attention takes a positive one"]


@pytest.mark.parametrize("hidden", _masks())
@pytest.mark.parametrize("number", ["-1e8", "-1e9", LOWEST])
def test_scores_replaced_by_a_number_far_below_them_are_masked(number: str, hidden: str) -> None:
    mask = f"h = Constant <value = float {{{number}}}> () m = Where (mask, s, h)"
    body = EAGER.format(scale="Mul (s0, two)", mask=mask)
    after, _ = rewrite(_model(body), FuseAttention(), feeds=_feeds(_masks()[hidden]))
    assert _ops(after) == ["Where", "Attention"]


@pytest.mark.parametrize("number", ["0.0", "-5.0", "-10000.0", "inf", "nan"])
def test_scores_replaced_by_another_number_are_refused_since_attention_adds_to_them(number: str) -> None:
    model = _model(
        EAGER.format(scale="Mul (s0, scale)", mask="m = Where (mask, s, h)"), mask="bool[B,1,S,S] mask, float h"
    )
    add_weights(model, h=np.array(float(number), np.float32))
    after, result = rewrite(model, FuseAttention(), feeds=_feeds(_masks()["one row hidden"]))
    assert "Attention" not in operators(after)
    assert reasons(result) == [
        f"hidden scores become {float(number):g}: Attention adds to a score, it does not replace it"
    ]


def test_float16_scores_replaced_by_its_lowest_number_are_refused() -> None:
    text = """g (float16[B,2,S,4] q, float16[B,2,S,4] k, float16[B,2,S,4] v, bool[B,1,S,S] c, float16 h)
        => (float16[B,2,S,4] y) { kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) m = Where (c, s, h)
        p = Softmax (m) y = MatMul (p, v) }"""
    model = add_weights(graph_from(text, opset=23), h=np.array(-65504, np.float16))
    _, (result,) = Pipeline((FuseAttention(),)).run(model)
    assert reasons(result) == ["hidden scores become -65504: Attention adds to a score, it does not replace it"]


def test_a_constant_causal_mask_is_taken_and_one_that_hides_a_row_refused() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)")
    text_model = _model(body, mask="float[5,5] mask")
    for value in text_model.graph.inputs:
        if value.shape is not None and value.shape.rank() == 4:
            value.shape = ir.Shape([2, 2, 5, 4])
    text_model.graph.outputs[0].shape = ir.Shape([2, 2, 5, 4])
    causal = np.triu(np.full((5, 5), -np.inf, np.float32), 1)
    after, _ = rewrite(add_weights(text_model.clone(), mask=causal), FuseAttention())
    assert _ops(after) == ["Attention"]
    causal[0] = -np.inf
    _, result = rewrite(add_weights(text_model.clone(), mask=causal), FuseAttention())
    assert reasons(result) == ["the mask 'mask' hides a whole row: NaN here, 0 in Attention"]


def test_weights_that_are_read_elsewhere_are_refused() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)") + " z = Neg (p)"
    outputs = "float[B,2,S,4] y, float[B,2,S,S] z"
    _, result = rewrite(_model(body, mask="float[B,1,S,S] mask", outputs=outputs), FuseAttention())
    assert reasons(result) == ["output 'p' also feeds z"]


def test_a_mask_that_may_grow_the_scores_is_refused() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)")
    feeds = ({**_feeds(np.zeros((B, 1, S, S), np.float32))[0]},)
    _, result = rewrite(_model(body, mask="float[C,1,S,S] mask"), FuseAttention(), feeds=feeds)
    assert reasons(result) == ["the mask 'mask' does not provably broadcast to the scores"]


def test_softmax_over_another_axis_is_no_attention() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)").replace("axis = -1", "axis = 2")
    _, result = rewrite(_model(body, mask="float[B,1,S,S] mask"), FuseAttention())
    assert not result.applied


def test_an_older_opset_is_refused() -> None:
    body = EAGER.format(scale="Mul (s0, scale)", mask="m = Add (s, mask)")
    _, result = rewrite(_model(body, mask="float[B,1,S,S] mask", opset=20), FuseAttention())
    assert reasons(result) == ["Attention needs opset 23, the model has 20"]


HEADS = """g (float[B,S,8] x, float[B,T,8] c, float[B,1,S,T] mask) => ({outputs}) {{
    {constants}
    q4 = Reshape (x, split) q = Transpose <perm = [0, 2, 1, 3]> (q4)
    k4 = Reshape (c, split) {key}
    v4 = Reshape (c, split) v = Transpose <perm = [0, 2, 1, 3]> (v4)
    s0 = MatMul (q, kt) s = Mul (s0, scale) m = Add (s, mask) p = Softmax <axis = -1> (m)
    o = MatMul (p, v) t = Transpose <perm = [0, 2, 1, 3]> (o) {tail}
}}"""


def _heads(
    *,
    key: str = "kt = Transpose <perm = [0, 2, 3, 1]> (k4)",
    tail: str = "y = Reshape (t, merge)",
    outputs: str = "float[B,S,8] y",
) -> ir.Model:
    return graph_from(HEADS.format(constants=_constants(), outputs=outputs, key=key, tail=tail))


@pytest.mark.parametrize(
    "key",
    [
        "kt = Transpose <perm = [0, 2, 3, 1]> (k4)",
        "k = Transpose <perm = [0, 2, 1, 3]> (k4) kt = Transpose <perm = [0, 1, 3, 2]> (k)",
    ],
)
def test_head_split_and_merge_are_absorbed_with_cross_attention(key: str) -> None:
    after, result = rewrite(_heads(key=key), FuseAttention())
    assert _ops(after) == ["Attention"]
    node = after.graph.node(-1)
    assert [value.name for value in node.inputs] == ["x", "c", "c", "mask"]
    assert (node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()) == (2, 2)
    assert [event.rule for event in result.applied] == ["attention", "heads"]


def test_heads_that_are_not_merged_stay_in_four_dimensions() -> None:
    after, result = rewrite(_heads(tail="y = Neg (t)", outputs="float[B,S,2,4] y"), FuseAttention())
    assert counts(after)["Attention"] == 1
    assert "q_num_heads" not in next(n for n in after.graph if n.op_type == "Attention").attributes
    assert reasons(result) == ["the heads of the result are not merged"]


def test_a_result_with_a_second_reader_stays_in_four_dimensions() -> None:
    model = _heads(tail="y = Reshape (t, merge) z = Neg (o)", outputs="float[B,S,8] y, float[B,2,S,4] z")
    _, result = rewrite(model, FuseAttention())
    assert reasons(result) == ["output 'o' also feeds z"] or "also feeds" in reasons(result)[0]


def test_an_attention_of_the_exporter_gets_its_heads_absorbed_and_a_limit_stops_between() -> None:
    after, _ = rewrite(_heads(), FuseAttention(), limit=1)
    assert "Reshape" in operators(after)
    again, result = rewrite(after, FuseAttention())
    assert _ops(again) == ["Attention"]
    assert [event.rule for event in result.applied] == ["heads"]


def test_the_mask_value_stays_finite_and_hides() -> None:
    body = SDPA.format(mask="w = Where (mask, zero, lowest) m = Add (s, w)")
    after, _ = rewrite(_model(body), FuseAttention(), feeds=_feeds(_masks()["partial"]))
    where = next(node for node in after.graph if node.op_type == "Where")
    assert constant_array(where.inputs[2]) == np.float32(-1e30)


def test_a_scale_that_adds_an_axis_is_no_attention() -> None:
    body = EAGER.format(scale="Mul (s0, deep)", mask="").replace("(m)", "(s)")
    body = "deep = Constant <value = float[1,1,1,1,1] {0.5}> () " + body
    after, result = rewrite(_model(body, outputs="float[1,B,2,S,4] y"), FuseAttention())
    assert "Attention" not in operators(after)
    assert not result.applied
