from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.fusion.pack_qkv import PackQkv
from passes.pipeline import Pipeline
from passes.serialization import load_model, save_model
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

BIASED = (
    "q0 = MatMul (x, wq) q = Add (q0, bq) k0 = MatMul (x, wk) k = Add (bk, k0) v0 = MatMul (x, wv) v = Add (v0, bv) "
)
PLAIN = "q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv) "
ATTEND = "y = Attention <q_num_heads = 4, kv_num_heads = {}> (q, k, v)"


def _model(body: str, *, kv: int = 8, outputs: str = "float[B,S,8] y") -> ir.Model:
    text = f"""g (float[B,S,6] x, float[B,S,6] z, float[6,8] wq, float[6,{kv}] wk, float[6,{kv}] wv, float[8] bq,
        float[{kv}] bk, float[{kv}] bv) => ({outputs}) {{ {body} }}"""
    widths = {"q": 8, "k": kv, "v": kv}
    arrays = {f"w{n}": random_array(6, width, seed=i) for i, (n, width) in enumerate(widths.items())}
    arrays |= {f"b{n}": random_array(width, seed=i + 5) for i, (n, width) in enumerate(widths.items())}
    return add_weights(graph_from(text), **arrays)


@pytest.mark.parametrize(("kv", "kv_heads"), [(8, 4), (4, 2)])
@pytest.mark.parametrize(
    ("body", "left"), [(BIASED, ["MatMul", "Add", "Split"]), (PLAIN, ["MatMul", "Split"])], ids=["biased", "plain"]
)
def test_three_projections_become_one(body: str, left: list[str], kv: int, kv_heads: int) -> None:
    after, result = rewrite(_model(body + ATTEND.format(kv_heads), kv=kv), PackQkv())
    assert operators(after) == [*left, "Attention"]
    assert len(result.applied) == 1
    assert [value.name for value in after.graph.node(-1).inputs if value] == ["q", "k", "v"]


def test_a_projection_may_have_other_readers() -> None:
    model = _model(BIASED + ATTEND.format(4) + " n = Neg (k)", outputs="float[B,S,8] y, float[B,S,8] n")
    after, _ = rewrite(model, PackQkv())
    assert operators(after) == ["MatMul", "Add", "Split", "Attention", "Neg"]


def test_a_product_that_is_also_read_without_its_bias_is_refused() -> None:
    model = _model(BIASED + ATTEND.format(4) + " n = Neg (k0)", outputs="float[B,S,8] y, float[B,S,8] n")
    _, result = rewrite(model, PackQkv())
    assert reasons(result) == ["output 'k0' also feeds n"]


def test_a_bias_that_one_lacks_is_zero() -> None:
    body = BIASED.replace("k0 = MatMul (x, wk) k = Add (bk, k0)", "k = MatMul (x, wk)")
    after, _ = rewrite(_model(body + ATTEND.format(4)), PackQkv())
    assert operators(after) == ["MatMul", "Add", "Split", "Attention"]


CROSS = BIASED.replace("MatMul (x, wk)", "MatMul (z, wk)").replace("MatMul (x, wv)", "MatMul (z, wv)")


def test_key_and_value_of_cross_attention_are_packed_where_that_saves_a_node() -> None:
    after, _ = rewrite(_model(CROSS + ATTEND.format(4)), PackQkv())
    assert operators(after) == ["MatMul", "Add", "MatMul", "Add", "Split", "Attention"]
    plain = PLAIN.replace("MatMul (x, wk)", "MatMul (z, wk)").replace("MatMul (x, wv)", "MatMul (z, wv)")
    _, result = rewrite(_model(plain + ATTEND.format(4)), PackQkv())
    assert not result.applied


def test_rotations_stay_between() -> None:
    text = """g (float[B,S,6] x, float[B,S,2] c, float[B,S,2] s, float[6,8] wq, float[6,4] wk, float[6,4] wv)
        => (float[B,S,8] y) {
        v = MatMul (x, wv) k0 = MatMul (x, wk) q0 = MatMul (x, wq) k = RotaryEmbedding <num_heads = 1> (k0, c, s)
        q = RotaryEmbedding <num_heads = 2> (q0, c, s) y = Attention <q_num_heads = 2, kv_num_heads = 1> (q, k, v) }"""
    weights = {"wq": random_array(6, 8), "wk": random_array(6, 4, seed=1), "wv": random_array(6, 4, seed=2)}
    model = add_weights(graph_from(text), **weights)
    feeds = tuple(
        {"x": random_array(b, s, 6), "c": random_array(b, s, 2), "s": random_array(b, s, 2)}
        for b, s in ((1, 1), (3, 4))
    )
    after, _ = rewrite(model, PackQkv(), feeds=feeds)
    assert operators(after) == ["MatMul", "Split", "RotaryEmbedding", "RotaryEmbedding", "Attention"]


def test_weights_over_the_bound_are_refused() -> None:
    _, result = rewrite(_model(PLAIN + ATTEND.format(4)), PackQkv(max_bytes=575))
    assert reasons(result) == ["the packed weight would have 576 bytes, over max_bytes=575, all of them stored anew"]
    after, _ = rewrite(_model(PLAIN + ATTEND.format(4)), PackQkv(max_bytes=576))
    assert operators(after) == ["MatMul", "Split", "Attention"]


def test_packed_weights_are_read_when_the_model_is_saved(tmp_path: Path) -> None:
    arrays = {name: random_array(64, 64, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))}
    text = """g (float[B,S,64] x, float[64,64] wq, float[64,64] wk, float[64,64] wv) => (float[B,S,64] y) {
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv)
        y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v) }"""
    path = tmp_path / "m.onnx"
    save_model(add_weights(graph_from(text), **arrays), path)
    after, _ = Pipeline((PackQkv(), EliminateDeadCode())).run(load_model(path))
    (weight,) = after.graph.initializers.values()
    assert isinstance(weight.const_value, ir.LazyTensor)
    save_model(after, path)  # over the file that the parts are read from
    (stored,) = load_model(path).graph.initializers.values()
    assert stored.const_value is not None
    expected = np.concatenate([arrays["wq"], arrays["wk"], arrays["wv"]], axis=1)
    assert np.array_equal(stored.const_value.numpy(), expected)
    assert np.array_equal(weight.const_value.numpy(), expected)


def test_one_projection_for_two_uses_is_refused() -> None:
    body = "q = MatMul (x, wq) v = MatMul (x, wv) y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, v, v)"
    _, result = rewrite(_model(body), PackQkv())
    assert reasons(result) == ["two of query, key and value are the same projection"]


def test_a_bias_of_another_shape_is_refused() -> None:
    model = _model(BIASED + ATTEND.format(4))
    model.graph.initializers.pop("bk")
    node = next(node for node in model.graph if node.outputs[0].name == "k")
    tensor = ir.Tensor(random_array(1, 8), name="bk2")
    wide = ir.Value(name="bk2", type=ir.TensorType(tensor.dtype), shape=ir.Shape([1, 8]), const_value=tensor)
    model.graph.register_initializer(wide)
    node.replace_input_with(0, wide)
    _, result = rewrite(model, PackQkv())
    assert reasons(result) == ["the bias 'bk2' is not of the shape [8]"]
