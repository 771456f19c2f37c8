"""The golden-text helper itself: each of its checks turns red."""

from __future__ import annotations

import pytest

from tests.support.golden import assert_lines, assert_refused, assert_rewritten, match_lines

GELU = """g (float[N,4] x) => (float[N,4] y) {
    half = Constant <value = float {0.5}> () root = Constant <value = float {0.70710677}> ()
    one = Constant <value = float {1.0}> ()
    a = Mul (x, root) e = Erf (a) p = Add (e, one) q = Mul (x, p) y = Mul (q, half)
}"""
SHARED = GELU.replace("=> (float[N,4] y)", "=> (float[N,4] y, float[N,4] e)")
TEXT = "a = Neg (x)\nb = Neg (a)\ny = Add (a, b)"


def test_exact_text() -> None:
    assert_rewritten(GELU, "fuse-gelu,eliminate-dead-code", 'y = Gelu <approximate: string = "none"> (x)')
    with pytest.raises(AssertionError, match="the graph is now"):
        assert_rewritten(GELU, "fuse-gelu,eliminate-dead-code", 'y = Gelu <approximate: string = "tanh"> (x)')


def test_constants_are_shown() -> None:
    body = "g (float[N,2] x) => (float[N,2] y) <float[2] w = {1.0, 2.0}> { a = Identity (x) y = Add (a, w) }"
    assert_rewritten(body, "remove-identities", "w = float[2] {1.0, 2.0}\ny = Add (x, w)")


def test_lines_and_refusals() -> None:
    assert_lines(GELU, "fuse-gelu,eliminate-dead-code", "CHECK: y = Gelu <{{.*none.*}}> (x)\nCHECK-NOT: Erf")
    assert_refused(SHARED, "fuse-gelu", "is an output of the graph")
    with pytest.raises(AssertionError, match="is in none of"):
        assert_refused(SHARED, "fuse-gelu", "another reason")
    with pytest.raises(AssertionError):
        assert_refused(GELU, "fuse-gelu", "")


@pytest.mark.parametrize(
    "checks",
    [
        "CHECK: [[p]] = Neg (x)\nCHECK-NEXT: [[q]] = Neg ([[p]])\nCHECK: y = Add ([[p]], [[q]])",
        "CHECK: y = Add\nCHECK-NOT: Mul\nCHECK-COUNT-2: Neg",
    ],
)
def test_checks_that_hold(checks: str) -> None:
    match_lines(TEXT, checks)


@pytest.mark.parametrize(
    "checks",
    [
        "CHECK: [[p]] = Neg (x)\nCHECK: y = Add ([[p]], [[p]])",
        "CHECK: a = Neg\nCHECK-NEXT: y = Add",
        "CHECK: y = Add\nCHECK: a = Neg",
        "CHECK-NOT: Neg",
        "CHECK-COUNT-1: Neg",
        "CHECK: y = Ad",
        "CHECK:",
        "y = Add (a, b)",
        "",
    ],
)
def test_checks_that_do_not_hold(checks: str) -> None:
    with pytest.raises(AssertionError):
        match_lines(TEXT, checks)
