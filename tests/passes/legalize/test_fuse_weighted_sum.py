"""FuseWeightedSum: the mean over tokens, and what stays as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.legalize.fuse_weighted_sum import FuseWeightedSum
from tests.support.rewriting import graph_from, operators, random_array, reasons, rewrite

BODY = """last = Constant <value_ints = [2]> () one = Constant <value_ints = [1]> () u = Unsqueeze (m, last)
    w = Cast <to = 1> (u) p = Mul (x, w) s = ReduceSum <keepdims = 0> (p, one) n = ReduceSum <keepdims = 0> (w, one)
    y = Div (s, n)"""


def model(body: str = BODY, *, x: str = "float[B,S,4] x", m: str = "int64[B,S] m", y: str = "float[B,4] y") -> ir.Model:
    return graph_from(f"g ({x}, {m}) => ({y}) {{ {body} }}")


def feeds() -> dict[str, np.ndarray]:
    return {"x": random_array(2, 3, 4), "m": np.array([[1, 1, 0], [1, 2, 3]])}


def without_constants(after: ir.Model) -> list[str]:
    return [kind for kind in operators(after) if kind != "Constant"]


@pytest.mark.parametrize(
    "body",
    [BODY, BODY.replace("(x, w)", "(w, x)"), BODY.replace("ints = [2]", "ints = [-1]"), BODY.replace("[1]", "[-2]")],
)
def test_a_mean_over_tokens(body: str) -> None:
    before = model(body) if "[-2]" not in body else model(body.replace("(w, one)", "(w, one)"))
    after, result = rewrite(before, FuseWeightedSum(), feeds=(feeds(),))
    assert without_constants(after) == ["Cast", "Einsum", "ReduceSum", "Div"]
    assert len(result.applied) == 1
    again, second = rewrite(after, FuseWeightedSum(), feeds=(feeds(),))
    assert not second.applied
    assert operators(again) == operators(after)


def test_weights_that_are_floats() -> None:
    body = BODY.replace("w = Cast <to = 1> (u)", "w = Identity (u)").replace("w = Identity (u)", "").replace("w", "u")
    feed = {**feeds(), "m": random_array(2, 3, seed=3)}
    after, _ = rewrite(model(body, m="float[B,S] m"), FuseWeightedSum(), feeds=(feed,))
    assert without_constants(after) == ["Einsum", "ReduceSum", "Div"]


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (model(f"{BODY} z = Neg (p)", y="float[B,4] y, float[B,S,4] z"), "output 'p' also feeds"),
        (model(f"{BODY} z = Neg (w)", y="float[B,4] y, float[B,S,1] z"), "output 'w' also feeds"),
    ],
)
def test_other_readers_are_refused(built: ir.Model, reason: str) -> None:
    after, result = rewrite(built, FuseWeightedSum(), feeds=(feeds(),))
    assert operators(after) == operators(built)
    (found,) = reasons(result)
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("x", "m", "body"),
    [
        ("float[B,S,4] x", "int64[1,S] m", BODY),
        ("float[B,S,4] x", "int64[B,S] m", BODY.replace("(p, one)", "(p, last)").replace("[B,4]", "[B,S]")),
        (
            "float[B,S,4] x",
            "int64[B,S] m",
            BODY.replace("s = ReduceSum <keepdims = 0>", "s = ReduceSum <keepdims = 1>"),
        ),
    ],
)
def test_other_sums_stay(x: str, m: str, body: str) -> None:
    from passes.base import Context
    from passes.pipeline import Pipeline

    built = graph_from(f"g ({x}, {m}) => (float y) {{ {body} }}")
    after, (result,) = Pipeline((FuseWeightedSum(),)).run(built, context=Context())
    assert result.applied == result.refused == ()
    assert operators(after) == operators(built)
