"""Head splits with rotations that an Attention takes up."""

from __future__ import annotations

from tests.support.golden import transformed
from tests.support.rewriting import operators

TEXT = """g (float[1,3,16] x, float[1,3,4] c, float[1,3,4] s) => (float[1,3,16] y) {
    split = Constant <value = int64[4] {1, 3, 2, 8}> () merge = Constant <value = int64[3] {1, 3, 16}> ()
    r = Reshape (x, split) t = Transpose <perm = [0, 2, 1, 3]> (r)
    q = RotaryEmbedding <interleaved = 0> (t, c, s) k = RotaryEmbedding <interleaved = 1> (t, c, s)
    o = Attention (q, k, t) m = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (m, merge) }"""


def test_rotations_of_unlike_kinds_stay_two_and_like_ones_become_one() -> None:
    after, _ = transformed(TEXT, "fuse-attention")
    assert operators(after).count("RotaryEmbedding") == 2
    after, _ = transformed(TEXT.replace("interleaved = 1", "interleaved = 0"), "fuse-attention")
    assert operators(after).count("RotaryEmbedding") == 1
