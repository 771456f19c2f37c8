"""LowerAttention: com.microsoft's Attention and MultiHeadAttention, their masks, and what stays standard."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.execution import run_model
from passes.legalize.lower_attention import LowerAttention
from tests.support.contrib import attributes, forms, legalise, refused
from tests.support.rewriting import add_weights, graph_from, random_array, reasons

HEADS = "q_num_heads = 2, kv_num_heads = 2"
PACKED = "p = MatMul (x, w) a = Add (p, b) q, k, v = Split <axis = -1, num_outputs = 3> (a)"
# Shapes of what the text computes, as an exporter states them.
SHAPES = ", float[B,S,24] p, float[B,S,24] a, float[B,S,8] q, float[B,S,8] k, float[B,S,8] v"
EXPANDED = "n = Shape <start = 1, end = 2> (x) one = Constant <value_ints = [1]> () l = Concat <axis = 0> (n, one)"
PADDING = f"""axes = Constant <value_ints = [1, 2]> () u = Unsqueeze (m, axes) {EXPANDED} e = Expand (u, l)
    zero = Constant <value_float = 0.0> () low = Constant <value_float = -1e30> () z = Where (e, zero, low)"""


def model(body: str, *, inputs: str = "", y: str = "float[B,S,8] y") -> ir.Model:
    text = f"g (float[B,S,6] x, float[6,24] w, float[24] b{inputs}) => ({y}) {{ {body} }}"
    return add_weights(graph_from(text), w=random_array(6, 24), b=random_array(24, seed=1))


def three(body: str, *, inputs: str = "", y: str = "float[B,S,8] y") -> ir.Model:
    return graph_from(f"g (float[B,S,8] q, float[B,T,8] k, float[B,T,8] v{inputs}) => ({y}) {{ {body} }}")


def without_constants(after: ir.Model) -> list[str]:
    return [text for text in forms(after) if not text.startswith("Constant")]


def feeds(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: random_array(*shape, seed=index) for index, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"num_heads": 2}),
        (", scale = 0.3", {"num_heads": 2, "scale": pytest.approx(0.3)}),
        (", is_causal = 1", {"num_heads": 2, "unidirectional": 1}),
    ],
)
def test_a_packed_projection_goes_into_attention(options: str, expected: dict[str, object]) -> None:
    after, result = legalise(model(f"{PACKED} y = Attention <{HEADS}{options}> (q, k, v)"), LowerAttention())
    assert forms(after) == ["Attention(x, w, b)"]
    assert attributes(after, "Attention") == expected
    assert [event.rule for event in result.applied] == ["Attention"]


def test_a_projection_without_bias() -> None:
    body = f"{PACKED} y = Attention <{HEADS}> (q, k, v)".replace("a = Add (p, b)", "").replace("(a)", "(p)")
    after, _ = legalise(model(body), LowerAttention())
    assert forms(after) == ["Attention(x, w)"]


def test_values_wider_than_keys() -> None:
    text = """g (float[B,S,6] x, float[6,32] w, int64[3] n) => (float[B,S,16] y) {
        p = MatMul (x, w) q, k, v = Split <axis = -1> (p, n) y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    }"""
    built = add_weights(graph_from(text), w=random_array(6, 32), n=np.array([8, 8, 16]))
    after, _ = legalise(built, LowerAttention())
    assert forms(after) == ["Attention(x, w)"]
    assert list(attributes(after, "Attention")["qkv_hidden_sizes"]) == [8, 8, 16]


@pytest.mark.parametrize("is_causal", [0, 1])
def test_a_padding_mask_becomes_integers(is_causal: int) -> None:
    body = f"{PACKED} {PADDING} y = Attention <{HEADS}, is_causal = {is_causal}> (q, k, v, z)"
    mask = np.array([[True, True, False, True], [False] * 4, [True] * 4])
    feed = {"x": random_array(3, 4, 6), "m": mask}
    after, _ = legalise(model(body, inputs=", bool[B,S] m"), LowerAttention(), feeds=(feed,))
    assert without_constants(after) == ["Cast(m)", "Attention(x, w, b, m_int)"]
    assert attributes(after, "Attention")["mask_filter_value"] == pytest.approx(-1e30)


def test_a_mask_that_names_the_hidden_keys_is_turned_round() -> None:
    body = f"{PACKED} {PADDING} y = Attention <{HEADS}> (q, k, v, z)".replace("(e, zero, low)", "(e, low, zero)")
    feed = {"x": random_array(2, 3, 6), "m": np.array([[True, False, False], [True] * 3])}
    after, _ = legalise(model(body, inputs=", bool[B,S] m"), LowerAttention(), feeds=(feed,))
    assert without_constants(after) == ["Not(m)", "Cast(m_seen)", "Attention(x, w, b, m_int)"]


def test_a_mask_of_rank_4_is_squeezed_once_for_all_layers() -> None:
    body = """zero = Constant <value_float = 0.0> () low = Constant <value_float = -1e30> () z = Where (m, zero, low)
        h = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, z)
        y = Attention <q_num_heads = 2, kv_num_heads = 2> (h, k, v, z)"""
    seen = np.array([[True, False, True], [True] * 3]).reshape(2, 1, 1, 3)
    feed = {**feeds(q=(2, 1, 8), k=(2, 3, 8), v=(2, 3, 8)), "m": seen}
    after, result = legalise(
        graph_from(
            f"g (float[B,1,8] q, float[B,T,8] k, float[B,T,8] v, bool[B,1,1,T] m) => (float[B,1,8] y) {{ {body} }}"
        ),
        LowerAttention(),
        feeds=(feed,),
    )
    assert without_constants(after) == [
        "Squeeze(m, m_axes)",
        "Cast(m_keys)",
        "MultiHeadAttention(q, k, v, _, m_int)",
        "MultiHeadAttention(h, k, v, _, m_int)",
    ]
    assert len(result.applied) == 2


@pytest.mark.parametrize("shape", ["B,2,S,T", "1,2,S,T", "B,1,S,T", "1,1,S,T", "S,T"])
def test_a_finite_additive_mask_is_attention_bias(shape: str) -> None:
    body = f"""low = Constant <value_float = -20.0> () zero = Constant <value_float = 0.0> ()
        z = Where (m, zero, low) y = Attention <{HEADS}> (q, k, v, z)"""
    built = three(body, inputs=f", bool[{shape}] m")
    sizes = {"B": 3, "S": 4, "T": 5}
    shapes = tuple(sizes.get(part, 0) or int(part) for part in shape.split(","))
    feed = {**feeds(q=(3, 4, 8), k=(3, 5, 8), v=(3, 5, 8)), "m": random_array(*shapes) > 0}
    after, _ = legalise(built, LowerAttention(), feeds=(feed,))
    mask = "z" if shape.count(",") == 3 else "z_4d"
    assert without_constants(after)[-1] == f"MultiHeadAttention(q, k, v, _, _, {mask})"


def test_biases_of_three_products_move_inside() -> None:
    text = """g (float[B,S,6] x, float[B,T,6] o, float[6,8] w, float[8] bq, float[8] bk, float[8] bv)
        => (float[B,S,8] y) { q0 = MatMul (x, w) q = Add (q0, bq) k0 = MatMul (o, w) k = Add (bk, k0)
        v0 = MatMul (o, w) v = Add (v0, bv) y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }"""
    arrays = {"w": random_array(6, 8), **{name: random_array(8, seed=3) for name in ("bq", "bk", "bv")}}
    feed = feeds(x=(2, 3, 6), o=(2, 5, 6))
    after, _ = legalise(add_weights(graph_from(text), **arrays), LowerAttention(), feeds=(feed,))
    assert [node.op_type for node in after.graph] == ["MatMul"] * 3 + ["MultiHeadAttention"]
    assert forms(after)[-1] == "MultiHeadAttention(q0, k0, v0, bq_qkv)"


@pytest.mark.parametrize("is_causal", [0, 1])
def test_a_cache_goes_through_multi_head_attention(is_causal: int) -> None:
    body = f"{PACKED} y, c, d = Attention <{HEADS}, is_causal = {is_causal}> (q, k, v, , c0, d0)"
    cache = "float[B,2,P,4] {}"
    built = model(
        body,
        inputs=f", {cache.format('c0')}, {cache.format('d0')}",
        y="float[B,S,8] y, float[B,2,R,4] c, float[B,2,R,4] d",
    )
    past = [{**feeds(x=(2, s, 6), c0=(2, 2, p, 4), d0=(2, 2, p, 4))} for s, p in ((1, 3), (3, 0), (2, 5))]
    after, _ = legalise(built, LowerAttention(), feeds=tuple(past))
    assert forms(after) == [
        "MatMul(x, w)",
        "Split(p)",
        "MultiHeadAttention(q, k, v, b, _, _, c0, d0)",
    ]
    assert [value.name for value in after.graph.node(-1).outputs] == ["y", "c", "d"]


def test_new_caches_without_old_ones() -> None:
    built = three(f"y, c, d = Attention <{HEADS}> (q, k, v)", y="float[B,S,8] y, float[B,2,T,4] c, float[B,2,T,4] d")
    after, _ = legalise(built, LowerAttention(), feeds=(feeds(q=(2, 3, 8), k=(2, 4, 8), v=(2, 4, 8)),))
    assert forms(after) == ["MultiHeadAttention(q, k, v)"]


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (three(f"y = Attention <{HEADS}> (q, k, v, m)", inputs=", bool[B,1,S,T] m"), "a row that 'm' hides wholly"),
        (three(f"y = Attention <{HEADS}> (q, k, v, m)", inputs=", float[B,1,S,T] m"), "'m' may hold -inf"),
        (three(f"y = Attention <{HEADS}, is_causal = 1> (q, k, v)"), "it is causal, and there may be more keys"),
        (three(f"y = Attention <{HEADS}, softcap = 2.0> (q, k, v)"), "it caps its scores or gives them"),
        (three(f"y, c, d, s = Attention <{HEADS}> (q, k, v)", y="float[B,S,8] y, float[B,2,S,T] s"), "its scores are"),
        (three(f"y = Attention <{HEADS}, softmax_precision = 1> (q, k, v)"), "its softmax has a precision"),
    ],
)
def test_what_is_refused(built: ir.Model, reason: str) -> None:
    (found,) = reasons(refused(built, LowerAttention()))
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("header", "options", "reason"),
    [
        ("float[B,S,8] q, float[B,T,4] k, float[B,T,4] v", "q_num_heads = 2, kv_num_heads = 1", "the heads of query"),
        ("float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,4] v", "scale = 1.0", "query, key and value are not of rank"),
        ("float[B,S,8] q, float[C,T,8] k, float[C,T,8] v", HEADS, "batch, length and width"),
    ],
)
def test_other_shapes_are_refused(header: str, options: str, reason: str) -> None:
    built = graph_from(f"g ({header}) => (float[B,S,8] y) {{ y = Attention <{options}> (q, k, v) }}")
    (found,) = reasons(refused(built, LowerAttention()))
    assert found.startswith(reason)


def test_a_mask_of_infinities_is_refused() -> None:
    body = f"z = Where (m, zero, low) y = Attention <{HEADS}> (q, k, v, z)"
    built = three(body, inputs=", bool[S,T] m, float zero, float low")
    add_weights(built, zero=np.array(0, np.float32), low=np.array(-np.inf, np.float32))
    (found,) = reasons(refused(built, LowerAttention()))
    assert found.startswith("'z' may hold -inf")


def test_the_lowest_number_is_a_number() -> None:
    body = f"z = Where (m, zero, low) y = Attention <{HEADS}> (q, k, v, z)"
    built = three(body, inputs=", bool[S,T] m, float zero, float low")
    add_weights(built, zero=np.array(0, np.float32), low=np.array(np.finfo(np.float32).min, np.float32))
    feed = {**feeds(q=(2, 2, 8), k=(2, 3, 8), v=(2, 3, 8)), "m": np.array([[True, False, True], [False, True, True]])}
    after, _ = legalise(built, LowerAttention(), feeds=(feed,))
    assert without_constants(after)[-1] == "MultiHeadAttention(q, k, v, _, _, z_4d)"


SEEN = np.array([[True, True, False, True], [False] * 4, [True] * 4])
ZEROED = ["ReduceMax(m_int, m_int_axis)", "Unsqueeze(m_int_any, m_int_last)", "Cast(m_int_any_3d)"]


def test_a_boolean_padding_gives_0_where_it_hides_all() -> None:
    body = f"{PACKED} axes = Constant <value_ints = [1, 2]> () u = Unsqueeze (m, axes) {EXPANDED} e = Expand (u, l)"
    body += f" h = Attention <{HEADS}> (q, k, v, e) y = Neg (h)"
    feed = {"x": random_array(3, 4, 6), "m": SEEN}
    after, _ = legalise(model(body, inputs=", bool[B,S] m"), LowerAttention(), feeds=(feed,))
    assert without_constants(after) == [
        "Cast(m)", "Attention(x, w, b, m_int)", *ZEROED, "Mul(h_1, m_int_kept)", "Neg(h)"
    ]  # fmt: skip
    (y,) = run_model(after, (feed,))
    assert not y["y"][1].any()
    assert y["y"][0].all()


def test_a_padding_of_infinities_gives_0_where_it_hides_all() -> None:
    body = f"{PACKED} {PADDING} y = Attention <{HEADS}> (q, k, v, z)".replace(
        "low = Constant <value_float = -1e30> ()", ""
    )
    built = model(body, inputs=", bool[B,S] m, float low")
    add_weights(built, low=np.array(-np.inf, np.float32))
    after, _ = legalise(built, LowerAttention(), feeds=({"x": random_array(3, 4, 6), "m": SEEN},))
    assert without_constants(after)[-1] == "Mul(y_1, m_int_kept)"


def test_the_factor_is_computed_once_for_all_layers() -> None:
    body = "h = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, m)"
    body += " y = Attention <q_num_heads = 2, kv_num_heads = 2> (h, k, v, m)"
    text = "g (float[B,1,8] q, float[B,T,8] k, float[B,T,8] v, bool[B,1,1,T] m) => (float[B,1,8] y)"
    feed = {**feeds(q=(3, 1, 8), k=(3, 4, 8), v=(3, 4, 8)), "m": SEEN.reshape(3, 1, 1, 4)}
    after, _ = legalise(graph_from(f"{text} {{ {body} }}"), LowerAttention(), feeds=(feed,))
    kinds = [text.partition("(")[0] for text in without_constants(after)]
    assert sorted(kinds) == sorted(
        ["Squeeze", "Cast", "ReduceMax", "Unsqueeze", "Cast", *["MultiHeadAttention", "Mul"] * 2]
    )


def test_a_complement_that_tests_itself_is_a_padding() -> None:
    """Where(u, low, u) with u = 1 - m: a key with m = 2 is hidden as well."""
    body = f"""{PACKED} axes = Constant <value_ints = [1, 2]> () u = Unsqueeze (m, axes) {EXPANDED} e = Expand (u, l)
        f = Cast <to = 1> (e) c = Constant <value_float = 1.0> () i = Sub (c, f) t = Cast <to = 9> (i)
        low = Constant <value_float = -1e30> () z = Where (t, low, i) y = Attention <{HEADS}> (q, k, v, z)"""
    feed = {"x": random_array(2, 4, 6), "m": np.array([[1, 0, 2, 1], [0, 0, 0, 0]])}
    after, _ = legalise(model(body, inputs=", int64[B,S] m"), LowerAttention(), feeds=(feed,))
    assert without_constants(after) == ["Equal(m, m_one)", "Cast(m_seen)", "Attention(x, w, b, m_int)"]


def test_queries_are_not_taken_for_batches_of_the_same_number() -> None:
    """A mask [S, T] with S = B is no padding, though its shape is [B, T]."""
    body = f"""axes = Constant <value_ints = [0, 1]> () u = Unsqueeze (m, axes)
        to = Constant <value_ints = [3, 1, 3, 4]> () e = Expand (u, to) y = Attention <{HEADS}> (q, k, v, e)"""
    text = "g (float[3,3,8] q, float[3,4,8] k, float[3,4,8] v, bool[3,4] m) => (float[3,3,8] y)"
    (found,) = reasons(refused(graph_from(f"{text} {{ {body} }}"), LowerAttention()))
    assert found.endswith("it is not the same for all heads and queries")


def test_a_causal_boolean_padding_is_refused() -> None:
    body = f"{PACKED} y = Attention <{HEADS}, is_causal = 1> (q, k, v, m)"
    (found,) = reasons(refused(model(body, inputs=", bool[B,1,1,S] m"), LowerAttention()))
    assert found.endswith("it is causal as well")


def test_a_mask_that_broadcasts_over_queries_is_refused() -> None:
    body = f"""low = Constant <value_float = -20.0> () zero = Constant <value_float = 0.0> ()
        z = Where (m, zero, low) y = Attention <{HEADS}> (q, k, v, z)"""
    (found,) = reasons(refused(three(body, inputs=", bool[B,2,1,T] m"), LowerAttention()))
    assert found == "the mask 'z' is not provably of [.., S, T]"


def test_a_type_without_kernel_is_refused() -> None:
    tensors = "double[B,S,8] q, double[B,S,8] k, double[B,S,8] v"
    text = f"g ({tensors}) => (double[B,S,8] y) {{ y = Attention <{HEADS}> (q, k, v) }}"
    assert reasons(refused(graph_from(text), LowerAttention())) == [
        "the target has no com.microsoft MultiHeadAttention for DOUBLE"
    ]


def test_weights_of_int8_stay_outside() -> None:
    text = f"""g (float[B,S,6] x, uint8[6,24] wq, float f, uint8 z) => (float[B,S,8] y) {{
        w = DequantizeLinear (wq, f, z) p = MatMul (x, w) q, k, v = Split <axis = -1, num_outputs = 3> (p)
        y = Attention <{HEADS}> (q, k, v) }}"""
    built = add_weights(
        graph_from(text),
        wq=np.random.default_rng(0).integers(0, 255, (6, 24)).astype(np.uint8),
        f=np.array(0.01, np.float32),
        z=np.array(128, np.uint8),
    )
    after, _ = legalise(built, LowerAttention())
    assert [node.op_type for node in after.graph] == ["DequantizeLinear", "MatMul", "Split", "MultiHeadAttention"]
