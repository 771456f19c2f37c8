"""FuseEmbeddingNorm: the embeddings that it sums inside, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.legalize.fuse_embedding_norm import FuseEmbeddingNorm
from tests.support.contrib import attributes, forms, legalise, refused
from tests.support.rewriting import add_weights, graph_from, random_array, reasons

WORDS = "e = Gather (w, ids)"
ROWS = """zero = Constant <value_ints = [0]> () one = Constant <value_ints = [1]> ()
    n = Shape <start = 1, end = 2> (ids) f = Slice (p, zero, n, one)"""
NORM = "y = LayerNormalization <epsilon = 0.001> (t, g, c)"
INPUTS = "int64[B,S] ids, int64[B,S] kinds, int64[1,S] places"
TABLES = {"w": (20, 8), "p": (1, 9, 8), "q": (9, 8), "k": (2, 8), "r": (8,), "g": (8,), "c": (8,)}


def model(body: str, *, y: str = "float[B,S,8] y", inputs: str = INPUTS) -> ir.Model:
    tables = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in TABLES.items())
    arrays = {name: random_array(*shape, seed=index) for index, (name, shape) in enumerate(TABLES.items())}
    return add_weights(graph_from(f"g ({inputs}, {tables}) => ({y}) {{ {body} }}"), **arrays)


def feeds(*sizes: tuple[int, int]) -> tuple[dict[str, np.ndarray], ...]:
    random = np.random.default_rng(0)
    return tuple(
        {
            "ids": random.integers(0, 20, size),
            "kinds": random.integers(0, 2, size),
            "places": random.integers(0, 9, (1, size[1])),
        }
        for size in sizes
    )


def fused(body: str) -> ir.Model:
    after, result = legalise(model(body), FuseEmbeddingNorm(), feeds=feeds((1, 1), (3, 5), (2, 9)))
    assert len(result.applied) == 1
    return after


def operator(after: ir.Model) -> str:
    return next(text for text in forms(after) if text.startswith("Embed"))


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (f"{WORDS} {ROWS} t = Add (e, f) {NORM}", "ids_int32, _, w, p_table, _, g, c"),
        (f"{WORDS} {ROWS} s = Add (e, r) t = Add (s, f) {NORM}", "ids_int32, _, w, p_table, _, g, c"),
        (f"{WORDS} {ROWS} t = Sum (f, r, e) {NORM}", "ids_int32, _, w, p_table, _, g, c"),
        (
            f"{WORDS} {ROWS} d = Gather (k, kinds) s = Add (e, d) t = Add (s, f) {NORM}",
            "ids_int32, kinds_int32, w, p_table, k, g, c",
        ),
        (
            f"{WORDS} f = Gather (q, places) t = Add (e, f) {NORM}",
            "ids_int32, _, w, q, _, g, c, _, places_int32",
        ),
        (
            f"{WORDS} d = Gather (k, kinds) f = Gather (q, places) s = Add (e, d) t = Add (s, f) {NORM}",
            "ids_int32, kinds_int32, w, q, k, g, c, _, places_int32",
        ),
    ],
)
def test_the_forms(body: str, form: str) -> None:
    after = fused(body)
    assert operator(after) == f"EmbedLayerNormalization({form})"
    assert attributes(after, "EmbedLayerNormalization") == {"epsilon": pytest.approx(0.001)}
    casts = form.count("_int32")
    assert sorted(node.op_type for node in after.graph if node.op_type not in ("Constant", "Shape")) == sorted(
        ["Cast"] * casts + ["EmbedLayerNormalization"]
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{WORDS} {ROWS} t = Add (e, f) y = LayerNormalization (t, g)", "scale and shift are not both of [H]"),
        (
            f"{WORDS} {ROWS} t = Add (e, f) y = LayerNormalization <stash_type = 16> (t, g, c)",
            "the norm is not over the last axis, in float32",
        ),
        (
            f"{WORDS} {ROWS} t = Add (e, f) {NORM}".replace("(p, zero, n, one)", "(p, zero, one, one)"),
            "the number of positions is not provably the length of the ids",
        ),
    ],
)
def test_what_is_refused(body: str, reason: str) -> None:
    assert reasons(refused(model(body), FuseEmbeddingNorm())) == [reason]


@pytest.mark.parametrize(
    "body",
    [
        f"{WORDS} x = Cast <to = 1> (kinds) u = Unsqueeze (x, a) t = Add (e, u) {NORM}",
        f"{WORDS} {ROWS} t = Add (e, f) {NORM}".replace("(p, zero, n, one)", "(p, one, n, one)"),
        f"{WORDS} t = Add (e, r) {NORM}",
    ],
)
def test_other_terms_are_no_match(body: str) -> None:
    body = body.replace("u = ", "a = Constant <value_ints = [2]> () u = ")
    assert not refused(model(body), FuseEmbeddingNorm()).refused


def test_a_sum_with_another_reader_is_no_match() -> None:
    built = model(f"{WORDS} {ROWS} t = Add (e, f) {NORM} z = Neg (t)", y="float[B,S,8] y, float[B,S,8] z")
    assert not refused(built, FuseEmbeddingNorm()).refused


def test_ids_of_another_rank_are_refused() -> None:
    built = model(f"{WORDS} f = Gather (q, ids) t = Add (e, f) {NORM}", y="float[S,8] y", inputs="int64[S] ids")
    assert reasons(refused(built, FuseEmbeddingNorm())) == ["the ids are not known to be of [B, S]"]
