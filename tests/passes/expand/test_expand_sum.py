from __future__ import annotations

import pytest

from passes.expand.expand_sum import ExpandSum
from tests.support.rewriting import graph_from, operators, rewrite


@pytest.mark.parametrize(("operands", "adds"), [("x, z", 1), ("x, z, b", 2), ("b, x, z, x", 3)])
def test_a_sum_becomes_additions_in_order(operands: str, adds: int) -> None:
    model = graph_from(f"g (float[N,3] x, float[N,3] z, float[3] b) => (float[N,3] y) {{ y = Sum ({operands}) }}")
    after, _ = rewrite(model, ExpandSum(), is_exact=True)
    assert operators(after) == ["Add"] * adds


def test_a_sum_of_one_stays() -> None:
    after, result = rewrite(graph_from("g (float[N] x) => (float[N] y) { y = Sum (x) }"), ExpandSum(), is_exact=True)
    assert operators(after) == ["Sum"]
    assert not result.applied
