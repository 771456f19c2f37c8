"""The order of trials on made-up networks: what must be kept is found, in few trials, and the bound is kept."""

from __future__ import annotations

import pytest

from exporter.search.candidates import Candidate, Space
from exporter.search.findings import LayerSensitivity
from exporter.search.strategy import (
    Ranking,
    TrialsSpent,
    explore,
    fewest_kept,
    guessed_number,
    keeping_order,
    refine,
)

NAMES = tuple(f"layer_{index}" for index in range(40))
SHARES = dict.fromkeys(NAMES, 1 / len(NAMES))


class Network:
    """Meets its gates when all of `needed` are kept; whole graphs meet them as `whole` says."""

    def __init__(self, needed: set[str], *, most: int = 1000, **whole: bool) -> None:
        self.needed, self.most, self.whole = needed, most, {"fp32": True, **whole}
        self.tried: list[Candidate] = []

    def __call__(self, candidate: Candidate) -> bool:
        if candidate not in self.tried:
            if len(self.tried) >= self.most:
                raise TrialsSpent
            self.tried.append(candidate)
        if candidate.precision != "int8":
            return self.whole[candidate.precision]
        return self.needed <= set(candidate.keep) and self.whole.get(candidate.rest, True)

    @property
    def met(self) -> list[Candidate]:
        return [each for each in self.tried if each.precision == "int8" and self(each)]


def space(*rests: str) -> Space:
    plain = [Candidate("fp32"), *(Candidate(rest) for rest in rests if rest)]  # type: ignore[arg-type]
    return Space((*plain, *(Candidate("int8", rest) for rest in rests)), rests)


def ranking(order: tuple[str, ...] = NAMES, guess: int | None = None) -> Ranking:
    return Ranking(order, SHARES, guess)


def test_the_fewest_are_found_by_halves() -> None:
    network = Network(set(NAMES[:13]))
    assert fewest_kept(NAMES, "", network) == NAMES[:13]
    assert len(network.tried) <= 6


@pytest.mark.parametrize("guess", [13, 14, 12, 30, 1])
def test_a_guess_is_only_a_guess(guess: int) -> None:
    network = Network(set(NAMES[:13]))
    assert fewest_kept(NAMES, "", network, guess=guess) == NAMES[:13]
    assert len(network.tried) <= 9
    if guess == 13:
        assert len(network.tried) <= 5


def test_nothing_is_kept_when_only_keeping_all_would_do() -> None:
    assert fewest_kept(NAMES, "", Network(set(NAMES))) == ()
    assert fewest_kept((), "", Network(set())) == ()


def test_what_was_kept_in_vain_goes_back_to_int8() -> None:
    needed = set(NAMES[:3])
    assert set(refine(NAMES[:6], "", Network(needed), SHARES)) == needed


def test_the_ranking_is_not_measured_where_int8_meets_the_gates() -> None:
    def unwanted() -> Ranking:
        raise AssertionError("measured for nothing")

    network = Network(set())
    explore(space(""), network, unwanted)
    assert network.tried == [Candidate("fp32"), Candidate("int8")]


def test_a_rest_whose_whole_graph_misses_is_not_searched() -> None:
    network = Network({NAMES[0]}, bf16=False)
    explore(space("", "bf16"), network, ranking)
    assert not [each for each in network.tried if each.rest == "bf16" and each.keep]
    both = Network({NAMES[0]}, bf16=True)
    explore(space("", "bf16"), both, ranking)
    assert Candidate("int8", "bf16", (NAMES[0],)) in both.met
    assert Candidate("int8", "", (NAMES[0],)) in both.met


def test_the_bound_ends_the_search() -> None:
    network = Network(set(NAMES[:13]), most=4)
    explore(space(""), network, ranking)
    assert len(network.tried) == 4


def test_keeping_goes_by_error_per_time_saved() -> None:
    layers = [
        LayerSensitivity("cheap", "Conv", 20.0, 1.0, share=0.01),
        LayerSensitivity("dear", "Conv", 20.0, 1.0, share=0.50),
        LayerSensitivity("harmless", "Conv", float("inf"), 1.0, share=0.01),
        LayerSensitivity("ruined", "Conv", 0.0, 1.0, share=0.10),
    ]
    assert keeping_order(layers) == ("ruined", "cheap", "dear", "harmless")


def test_the_guess_is_the_least_number_that_a_prediction_holds_for() -> None:
    assert guessed_number(NAMES, lambda kept: len(kept) >= 17) == 17
    assert guessed_number(NAMES, lambda kept: False) == len(NAMES)
