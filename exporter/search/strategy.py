"""Which candidates are tried, in which order: whole graphs, then the fewest operators kept out of int8.

Operators are kept in the order of the error that they cause per time that their int8 saves: sensitivity against
latency, as HAWQ-V3 (Yao et al. 2021, arXiv 2011.10680) weighs them, here greedily. Keeping one more can hardly make a
result worse, so their number is found by halves; then each kept operator is tried in int8 after all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exporter.search.candidates import Candidate, Space
from exporter.search.findings import LayerSensitivity

MOST_REFINEMENTS = 6
"""Kept operators that are tried in int8 again, the most expensive first."""

IsMet = Callable[[Candidate], bool]


class TrialsSpent(Exception):
    """The bound on trials is reached: raised by `is_met`, and the end of the search."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The operators in the order of keeping, each one's share of the work, and how many probably have to be kept."""

    order: tuple[str, ...]
    shares: Mapping[str, float]
    guess: int | None = None


def keeping_order(layers: Sequence[LayerSensitivity]) -> tuple[str, ...]:
    """Return the operators, first the one whose keeping buys most accuracy for the time that it costs."""
    ranked = sorted(layers, key=lambda layer: damage(layer) / max(layer.share, 1e-9), reverse=True)
    return tuple(layer.name for layer in ranked)


def damage(layer: LayerSensitivity) -> float:
    """Return the error's power at the outputs over the signal's; 0 where nothing changes."""
    return float(10 ** (-layer.sqnr_db / 10))


def explore(space: Space, is_met: IsMet, ranking: Callable[[], Ranking]) -> None:
    """Try candidates until nothing promises more, or `is_met` raises TrialsSpent.

    `ranking` is asked only when int8 alone misses the gates.
    """
    try:
        whole = {candidate: is_met(candidate) for candidate in space.plain}
        # Keeping nothing is the fastest of its kind; and where a graph wholly in `rest` misses, so does all of it kept.
        open_rests = [rest for rest in space.rests if not whole[Candidate("int8", rest)] and _can_be_met(rest, whole)]
        if not open_rests:
            return
        ranked = ranking()
        guess = ranked.guess
        for rest in open_rests:
            kept = fewest_kept(ranked.order, rest, is_met, guess=guess)
            if kept:
                guess = len(kept)
                refine(kept, rest, is_met, ranked.shares)
    except TrialsSpent:
        return


def _can_be_met(rest: str, whole: Mapping[Candidate, bool]) -> bool:
    return next((met for plain, met in whole.items() if plain.precision == (rest or "fp32")), True)


def guessed_number(order: Sequence[str], is_predicted: Callable[[Sequence[str]], bool]) -> int:
    """Return how many of `order` must be kept for a prediction to hold."""
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_predicted(order[:middle]) else (middle, high)
    return high


def fewest_kept(order: Sequence[str], rest: str, is_met: IsMet, *, guess: int | None = None) -> tuple[str, ...]:
    """Return the shortest beginning of `order` whose keeping meets the gates; empty when only all of it does."""
    low, high = 0, len(order)  # none kept fails, all kept holds
    probes = [] if guess is None else [guess, guess - max(1, guess // 8), guess + max(1, guess // 8)]
    while high - low > 1:
        probe = next((number for number in probes if low < number < high), (low + high) // 2)
        if is_met(Candidate("int8", rest, tuple(order[:probe]))):
            high = probe
        else:
            low = probe
    return tuple(order[:high]) if high < len(order) else ()


def refine(kept: tuple[str, ...], rest: str, is_met: IsMet, shares: Mapping[str, float]) -> tuple[str, ...]:
    """Return the kept operators without those that need not be, tried by falling share of the work."""
    for name in sorted(kept, key=lambda each: shares[each], reverse=True)[:MOST_REFINEMENTS]:
        fewer = tuple(each for each in kept if each != name)
        if fewer and is_met(Candidate("int8", rest, fewer)):
            kept = fewer
    return kept
