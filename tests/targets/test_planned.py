"""planned_int8: what Q/DQ nodes ask for."""

from __future__ import annotations

from targets.planned import planned_int8, product_aliases
from tests.support.quantized_model import quantized_model
from tests.support.rewriting import add_weights, graph_from, random_array
from tests.support.small_models import SMALL_MODELS


def test_products_between_8_bit_operands_are_planned():
    assert planned_int8(quantized_model()) == ("conv_chained", "conv_open", "gemm_chained")


def test_weight_only_compression_is_not():
    assert planned_int8(quantized_model(weight_only=True)) == ()


def test_float_graphs_plan_nothing():
    assert planned_int8(SMALL_MODELS["convolutions"].model()) == ()


def test_fused_products_are_named_and_attention_plans_no_int8():
    text = """g (float[B,S,4] x, uint8[2,3,4] q, float f) => (float[B,S,4] y, float[2,3,4] z) {
        d = DequantizeLinear (q, f) z = Attention <q_num_heads = 1, kv_num_heads = 1> (d, d, d)
        p = com.microsoft.FusedMatMul <alpha = 0.5> (x, w) a = com.microsoft.Attention <num_heads = 1> (p, v)
        y = com.microsoft.FusedGemm <activation = "Relu"> (a, w) }"""
    model = add_weights(
        graph_from(text.replace("float f)", "float f, float[4,4] w, float[4,12] v)")),
        w=random_array(4, 4),
        v=random_array(4, 12),
    )
    assert sorted(product_aliases(model)) == ["a", "p", "y", "z"]
    assert planned_int8(model) == ()


def test_aliases_follow_what_a_runtime_fuses():
    aliases = product_aliases(SMALL_MODELS["convolutions"].model())
    first = next(iter(aliases.values()))
    assert first[1] == "c"
    assert first[-1] == "r"  # through the Relu, up to the next convolution
    assert len(aliases) == 3
