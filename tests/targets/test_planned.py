"""planned_int8: what Q/DQ nodes ask for."""

from __future__ import annotations

from targets.planned import planned_int8, product_aliases
from tests.support.quantized_model import quantized_model
from tests.support.small_models import SMALL_MODELS


def test_products_between_8_bit_operands_are_planned():
    assert planned_int8(quantized_model()) == ("conv_chained", "conv_open", "gemm_chained")


def test_weight_only_compression_is_not():
    assert planned_int8(quantized_model(weight_only=True)) == ()


def test_float_graphs_plan_nothing():
    assert planned_int8(SMALL_MODELS["convolutions"].model()) == ()


def test_aliases_follow_what_a_runtime_fuses():
    aliases = product_aliases(SMALL_MODELS["convolutions"].model())
    first = next(iter(aliases.values()))
    assert first[1] == "c"
    assert first[-1] == "r"  # through the Relu, up to the next convolution
    assert len(aliases) == 3
