"""Repeated key and value heads beside a cache, which holds them repeated."""

from __future__ import annotations

import pytest

from tests.support.golden import assert_refused
from tests.support.rewriting import random_array

REPEATED = """
    two = Constant <value = int64[1] {2}> () times = Constant <value = int64[5] {1, 1, 2, 1, 1}> ()
    join = Constant <value = int64[4] {1, 4, 3, 8}> ()
    ku = Unsqueeze (k, two) ke = Expand (ku, times) kr = Reshape (ke, join)
    vu = Unsqueeze (v, two) ve = Expand (vu, times) vr = Reshape (ve, join)
"""
TENSORS = {"q": (1, 4, 3, 8), "k": (1, 2, 3, 8), "v": (1, 2, 3, 8)}
PASTS = {"pk": (1, 4, 5, 8), "pv": (1, 4, 5, 8)}


@pytest.mark.parametrize(
    ("pasts", "total", "call"),
    [(PASTS, 8, "y, ok, ov = Attention (q, kr, vr, , pk, pv)"), ({}, 3, "y, ok, ov = Attention (q, kr, vr)")],
)
def test_heads_that_a_cache_holds_repeated_stay_repeated(
    pasts: dict[str, tuple[int, ...]], total: int, call: str
) -> None:
    shapes = {**TENSORS, **pasts}
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    outputs = f"float[1,4,3,8] y, float[1,4,{total},8] ok, float[1,4,{total},8] ov"
    feeds = {name: random_array(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    text = f"g ({inputs}) => ({outputs}) {{ {REPEATED} {call} }}"
    assert_refused(text, "fuse-attention", "its cache holds the repeated heads", feeds=(feeds,))
