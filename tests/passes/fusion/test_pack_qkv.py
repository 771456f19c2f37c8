from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.fusion.pack_qkv import PackQkv
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
    assert [value.name for value in after.graph.node(-1).inputs] == ["q", "k", "v"]


def test_projections_of_two_tensors_stay() -> None:
    body = BIASED.replace("MatMul (x, wk)", "MatMul (z, wk)").replace("MatMul (x, wv)", "MatMul (z, wv)")
    _, result = rewrite(_model(body + ATTEND.format(4)), PackQkv())
    assert not result.applied


def test_a_projection_with_a_second_reader_is_refused() -> None:
    model = _model(BIASED + ATTEND.format(4) + " n = Neg (k)", outputs="float[B,S,8] y, float[B,S,8] n")
    _, result = rewrite(model, PackQkv())
    assert reasons(result) == ["output 'k' also feeds n"]


def test_one_projection_for_two_uses_is_refused() -> None:
    body = "q = MatMul (x, wq) v = MatMul (x, wv) y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, v, v)"
    _, result = rewrite(_model(body), PackQkv())
    assert reasons(result) == ["two of query, key and value are the same projection"]


def test_a_mixture_with_and_without_bias_is_refused() -> None:
    body = BIASED.replace("k0 = MatMul (x, wk) k = Add (bk, k0)", "k = MatMul (x, wk)")
    _, result = rewrite(_model(body + ATTEND.format(4)), PackQkv())
    assert reasons(result) == ["some of the projections have a bias and some have none"]


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
