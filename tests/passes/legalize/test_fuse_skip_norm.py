"""FuseSkipNorm: which sums it joins to a norm, in which form, and which it refuses."""

from __future__ import annotations

import pytest

from passes.legalize.fuse_skip_norm import FuseSkipNorm
from tests.support.contrib import attributes, forms, legalise
from tests.support.rewriting import graph_from, reasons

LAYER = "y = LayerNormalization <epsilon = 0.001> (s, g, c)"
RMS = "y = RMSNormalization <epsilon = 0.001> (s, g)"


def model(
    body: str,
    *,
    x: str = "B,S,8",
    skip: str = "B,S,8",
    outputs: str = "float[B,S,8] y",
    weight: str = "8",
    opset: int = 23,
):
    return graph_from(
        f"""g (float[{x}] x, float[{skip}] r, float[8] b, float[{weight}] g, float[{weight}] c, float[B,S,8] o)
        => ({outputs}) {{ {body} }}""",
        opset=opset,
    )


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (f"s = Add (x, r) {LAYER}", "SkipLayerNormalization(x, r, g, c)"),
        (f"p = Add (x, b) s = Add (p, r) {LAYER}", "SkipLayerNormalization(x, r, g, c, b)"),
        (f"p = Add (b, x) s = Add (r, p) {LAYER}", "SkipLayerNormalization(x, r, g, c, b)"),
        (f"s = Sum (x, b, r) {LAYER}", "SkipLayerNormalization(x, r, g, c, b)"),
        (f"s = Sum (b, x, r) {LAYER}", "SkipLayerNormalization(x, r, g, c, b)"),
        (f"s = Sum (x, r) {LAYER}", "SkipLayerNormalization(x, r, g, c)"),
        ("s = Add (x, r) y = LayerNormalization (s, g)", "SkipLayerNormalization(x, r, g)"),
        (f"s = Add (x, r) {RMS}", "SkipSimplifiedLayerNormalization(x, r, g)"),
        (f"p = Add (x, b) s = Add (p, r) {RMS}", "SkipSimplifiedLayerNormalization(x, r, g, b)"),
    ],
)
def test_a_sum_and_its_norm_become_one(body: str, form: str) -> None:
    after, result = legalise(model(body), FuseSkipNorm())
    assert forms(after) == [form]
    assert len(result.applied) == 1


@pytest.mark.parametrize("skip", ["1,S,8", "S,8", "1,3,8"])
@pytest.mark.parametrize("norm", [LAYER, RMS])
def test_a_skip_for_all_batches_comes_second(skip: str, norm: str) -> None:
    shapes = ("B,3,8", "float[B,3,8] y") if "3" in skip else ("B,S,8", "float[B,S,8] y")
    after, _ = legalise(model(f"s = Add (r, x) {norm}", skip=skip, x=shapes[0], outputs=shapes[1]), FuseSkipNorm())
    assert forms(after)[0].partition("(")[2].startswith("x, r, g")


def test_matrices_are_taken() -> None:
    after, _ = legalise(model(f"s = Add (x, r) {LAYER}", x="T,8", skip="T,8", outputs="float[T,8] y"), FuseSkipNorm())
    assert forms(after) == ["SkipLayerNormalization(x, r, g, c)"]


def test_epsilon_is_kept_and_its_default_stated() -> None:
    after, _ = legalise(model(f"s = Add (x, r) {LAYER}"), FuseSkipNorm())
    assert attributes(after, "SkipLayerNormalization") == {"epsilon": pytest.approx(0.001)}
    after, _ = legalise(model("s = Add (x, r) y = LayerNormalization (s, g, c)"), FuseSkipNorm())
    assert attributes(after, "SkipLayerNormalization") == {"epsilon": pytest.approx(1e-5)}


@pytest.mark.parametrize("norm", [LAYER, RMS])
def test_a_sum_with_other_readers_is_the_fourth_output(norm: str) -> None:
    after, _ = legalise(
        model(f"s = Add (x, r) n = Neg (s) {norm}", outputs="float[B,S,8] y, float[B,S,8] n"), FuseSkipNorm()
    )
    assert [node.op_type for node in after.graph] == [forms(after)[0].partition("(")[0], "Neg"]
    assert [value.name for value in after.graph.node(0).outputs] == ["y", "", "", "s"]


def test_a_sum_that_is_an_output_keeps_its_name() -> None:
    after, _ = legalise(model(f"s = Add (x, r) {LAYER}", outputs="float[B,S,8] y, float[B,S,8] s"), FuseSkipNorm())
    assert [value.name for value in after.graph.node(0).outputs] == ["y", "", "", "s"]


def test_two_norms_of_one_sum_share_it() -> None:
    body = f"s = Add (x, r) {LAYER} z = LayerNormalization (s, c, g)"
    after, result = legalise(model(body, outputs="float[B,S,8] y, float[B,S,8] z"), FuseSkipNorm())
    assert forms(after) == ["SkipLayerNormalization(x, r, g, c)", "LayerNormalization(s, c, g)"]
    assert len(result.applied) == 1


def test_a_biased_product_with_another_reader_stays_whole() -> None:
    body = f"p = Add (x, b) s = Add (p, r) {LAYER} n = Neg (p)"
    after, _ = legalise(model(body, outputs="float[B,S,8] y, float[B,S,8] n"), FuseSkipNorm())
    assert forms(after) == ["Add(x, b)", "SkipLayerNormalization(p, r, g, c)", "Neg(p)"]


UNFIT = "x and skip are not provably of the same shape, or bias, scale and shift not of the last dimension"


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (
            model(f"s = Add (x, r) {LAYER}", x="B,S,2,8", skip="B,S,2,8", outputs="float[B,S,2,8] y"),
            "the sum has rank 4, not 2 or 3",
        ),
        (model(f"s = Add (x, r) {LAYER}", x="8", skip="8", outputs="float[8] y"), "the sum has rank 1, not 2 or 3"),
        (model(f"s = Add (x, r) {LAYER}", skip="B,1,8"), UNFIT),
        (model(f"s = Add (x, r) {LAYER}", skip="8"), UNFIT),
        (model(f"s = Add (x, r) {LAYER}", x="1,S,8", skip="B,1,8"), UNFIT),
        (model(f"s = Add (x, r) {LAYER}", weight="1"), UNFIT),
        (
            model("s = Add (x, r) y, m = LayerNormalization (s, g)", outputs="float[B,S,8] y, float[B,S,1] m"),
            "the mean or deviation of the norm is read",
        ),
        (
            model("s = Add (x, r) y = LayerNormalization <stash_type = 16> (s, g)"),
            "the norm computes in another type than float32",
        ),
        (
            model("s = Add (x, r) a = Abs (g) z = LayerNormalization (s, a) y = Add (z, s)"),
            "'a' is computed, and the sum has other readers",
        ),
    ],
)
def test_what_is_refused(built, reason: str) -> None:
    from passes.base import Context
    from passes.pipeline import Pipeline
    from tests.support.contrib import CONTRIB

    after, (result,) = Pipeline((FuseSkipNorm(),)).run(built, context=Context(CONTRIB))
    assert reasons(result) == [reason]
    assert not result.applied
    assert "com.microsoft" not in after.opset_imports


def test_a_norm_over_two_axes_is_refused() -> None:
    built = graph_from(
        """g (float[B,4,8] x, float[B,4,8] r, float[4,8] g, float[4,8] c) => (float[B,4,8] y) {
        s = Add (x, r) y = LayerNormalization <axis = 1> (s, g, c) }"""
    )
    _, result = legalise(built, FuseSkipNorm())
    assert reasons(result) == ["the norm is over more than the last axis"]


def test_a_type_without_kernel_is_refused() -> None:
    built = graph_from(
        """g (double[B,S,8] x, double[B,S,8] r, double[8] g, double[8] c) => (double[B,S,8] y) {
        s = Add (x, r) y = LayerNormalization (s, g, c) }"""
    )
    _, result = legalise(built, FuseSkipNorm())
    assert reasons(result) == ["the target has no com.microsoft SkipLayerNormalization for DOUBLE"]


def test_a_sum_of_int8_data_is_left_to_the_runtime() -> None:
    built = graph_from(
        """g (float[B,S,8] x, uint8[B,S,8] q, float f, uint8 z, float[8] g, float[8] c) => (float[B,S,8] y) {
        r = DequantizeLinear (q, f, z) s = Add (x, r) y = LayerNormalization (s, g, c) }"""
    )
    _, result = legalise(built, FuseSkipNorm())
    assert reasons(result) == ["'r' comes from int8"]
