from __future__ import annotations

import pytest

from passes.fusion.fuse_einsum import FuseEinsum
from tests.support.rewriting import graph_from, operators, reasons, rewrite


def _model(equation: str, *shapes: str, out: str):  # type: ignore[no-untyped-def]
    inputs = ", ".join(f"float[{shape}] x{index}" for index, shape in enumerate(shapes))
    names = ", ".join(f"x{index}" for index in range(len(shapes)))
    return graph_from(f'g ({inputs}) => (float[{out}] y) {{ y = Einsum <equation = "{equation}"> ({names}) }}')


@pytest.mark.parametrize(
    ("equation", "first", "second", "out", "left"),
    [
        ("ij,jk->ik", "N,4", "4,5", "N,5", ["MatMul"]),
        ("ij, jk -> ik", "N,4", "4,5", "N,5", ["MatMul"]),
        ("bij,bjk->bik", "B,N,4", "B,4,5", "B,N,5", ["MatMul"]),
        ("bhqk,bhkd->bhqd", "B,2,Q,K", "B,2,K,4", "B,2,Q,4", ["MatMul"]),
        ("bhqd,bhkd->bhqk", "B,2,Q,4", "B,2,K,4", "B,2,Q,K", ["Transpose", "MatMul"]),
        ("bhdq,bhdk->bhqk", "B,2,4,Q", "B,2,4,K", "B,2,Q,K", ["Transpose", "MatMul"]),
        ("bqhd,bhdk->bhqk", "B,Q,2,4", "B,2,4,K", "B,2,Q,K", ["Transpose", "MatMul"]),
        ("bsd,de->bse", "B,S,4", "4,5", "B,S,5", ["MatMul"]),
        ("bsd,ed->bse", "B,S,4", "5,4", "B,S,5", ["Transpose", "MatMul"]),
        ("ij,bjk->bik", "3,4", "B,4,K", "B,3,K", ["MatMul"]),
        ("bhqd,hdk->bhqk", "B,2,Q,4", "2,4,5", "B,2,Q,5", ["MatMul"]),
        ("jk,ij->ik", "4,5", "N,4", "N,5", ["MatMul"]),
    ],
)
def test_a_product_of_matrices_becomes_matmul(
    equation: str, first: str, second: str, out: str, left: list[str]
) -> None:
    after, result = rewrite(_model(equation, first, second, out=out), FuseEinsum())
    assert operators(after) == left
    assert len(result.applied) == 1


@pytest.mark.parametrize(("equation", "shape", "out"), [("ij->ji", "N,4", "4,N"), ("abcd->acbd", "A,2,C,4", "A,C,2,4")])
def test_an_exchange_of_axes_becomes_transpose(equation: str, shape: str, out: str) -> None:
    after, _ = rewrite(_model(equation, shape, out=out), FuseEinsum())
    assert operators(after) == ["Transpose"]


@pytest.mark.parametrize(("equation", "shape"), [("ij->ij", "N,4"), ("i->i", "N")])
def test_what_leaves_its_operand_as_it_is_becomes_identity(equation: str, shape: str) -> None:
    after, _ = rewrite(_model(equation, shape, out=shape), FuseEinsum())
    assert operators(after) == ["Identity"]


def test_a_number_stays_a_number() -> None:
    after, _ = rewrite(
        graph_from('g (float x) => (float y) { n = Neg (x) y = Einsum <equation = "->"> (n) }'), FuseEinsum()
    )
    assert operators(after) == ["Neg", "Identity"]


REFUSED = {
    "needs two Transposes": ("ji,kj->ik", ("4,N", "5,4"), "N,5"),
    "is not a sum over one letter of both operands": ("bij,bij->b", ("B,3,4", "B,3,4"), "B"),
    "is not a sum over one letter of both operands ": ("ij,kl->ik", ("3,4", "5,6"), "3,5"),
    "is not a product of matrices": ("i,i->", ("4", "4"), ""),
    "is not a product of matrices ": ("bi,bi->b", ("B,4", "B,4"), "B"),
    "has batch axes in another order": ("abij,bajk->abik", ("2,3,N,4", "3,2,4,5"), "2,3,N,5"),
    "has an ellipsis or no result": ("...ij,...jk->...ik", ("B,3,4", "B,4,5"), "B,3,5"),
    "has an ellipsis or no result ": ("ij,jk", ("3,4", "4,5"), "3,5"),
    "has 3 operands": ("ij,jk,kl->il", ("2,3", "3,4", "4,5"), "2,5"),
    "takes a diagonal": ("ii->i", ("4,4",), "4"),
    "sums over one operand": ("ij->i", ("N,4",), "N"),
    "is not provably of one length": ("bij,bjk->bik", ("B,3,4", "C,4,5"), "B,3,5"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_each_refusal_says_why(reason: str) -> None:
    equation, shapes, out = REFUSED[reason]
    model = _model(equation, *shapes, out=out)
    feeds = None
    if "one length" in reason:
        import numpy as np

        feeds = ({"x0": np.ones((2, 3, 4), np.float32), "x1": np.ones((2, 4, 5), np.float32)},)
    after, result = rewrite(model, FuseEinsum(), feeds=feeds)
    assert operators(after) == ["Einsum"]
    assert [reason.strip() in one for one in reasons(result)] == [True]


def test_integers_stay() -> None:
    text = 'g (int32[N,4] a, int32[4,5] b) => (int32[N,5] y) { y = Einsum <equation = "ij,jk->ik"> (a, b) }'
    _, result = rewrite(graph_from(text), FuseEinsum(), feeds=())
    assert reasons(result) == ["the type is not one of floating point"]
