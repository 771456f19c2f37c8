from __future__ import annotations

import pytest

from passes.dimensions import Dim, broadcast, broadcasts_into, dim_from, equal, plain, product, quotient, total, unnamed

B, S = Dim(1, ("B",)), Dim(1, ("S",))


@pytest.mark.parametrize("text", [3, "B", "2*B", "B*S", "sequence + 1", "Min(512, sequence)"])
def test_what_a_file_spells_comes_back(text: int | str) -> None:
    assert plain(dim_from(text)) == text


def test_unknown_dimensions_are_never_spelled() -> None:
    assert dim_from(None) is None
    assert plain(None) is None
    assert plain(unnamed("x", 0)) is None
    assert plain(product([unnamed("x", 0), Dim(2)])) is None


def test_products_quotients_and_sums() -> None:
    assert product([B, Dim(2), S]) == dim_from("2*B*S")
    assert product([B, None]) is None
    assert product([B, Dim(0)]) == Dim(0)
    assert quotient(product([B, Dim(12)]), Dim(4)) == product([B, Dim(3)])
    assert quotient(product([B, S]), S) == B
    assert quotient(B, S) is None
    assert quotient(Dim(7), Dim(2)) is None
    assert total(B, B) == product([B, Dim(2)])
    assert total(B, Dim(0)) == B
    assert total(B, Dim(1)) is None
    assert total(B, B, sign=-1) == Dim(0)


def test_equality_is_certain_or_open() -> None:
    assert equal(B, B) is True
    assert equal(Dim(1), Dim(2)) is False
    assert equal(B, Dim(-1)) is False
    assert equal(B, Dim(1)) is None
    assert equal(B, S) is None


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(B, S), (S,)], (B, S)),
        ([(B, Dim(1)), (Dim(1), S)], (B, S)),
        ([(B,), (Dim(4),)], (Dim(4),)),
        ([(B,), (S,)], (None,)),
        ([(B, None), (B, Dim(1))], (B, None)),
        ([(B,), (unnamed("x", 0, at_most=B),)], (B,)),
        ([(B,), (unnamed("x", 0, at_most=S),)], (None,)),
    ],
)
def test_broadcasting(shapes: list[tuple[Dim | None, ...]], expected: tuple[Dim | None, ...]) -> None:
    assert broadcast(shapes) == expected


def test_what_broadcasts_without_growing() -> None:
    assert broadcasts_into((), (B, S))
    assert broadcasts_into((Dim(1), S), (B, S))
    assert not broadcasts_into((B, S), (S,))
    assert not broadcasts_into((B,), (S,))
    assert not broadcasts_into((None,), (S,))
    assert not broadcasts_into(None, (S,))
