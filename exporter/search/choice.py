"""The winner among the candidates that were timed, and the reasons: for it, and for each operator that it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.evaluation.tolerance import GATES, GateSpec
from exporter.report.wording import milliseconds_text, number_text
from exporter.search.candidates import Candidate
from exporter.search.findings import KeptLayer, LayerSensitivity, SearchTrial

if TYPE_CHECKING:
    from exporter.search.racing import Race
    from exporter.search.trials import Trial

SAME_SPEED = 1.02
"""Of candidates within this factor of the fastest, the most accurate is taken."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner. is_met: the gates hold on the validation samples; note: what they hold without."""

    candidate: Candidate
    is_met: bool
    note: str = ""


def choose(
    trials: Mapping[Candidate, Trial], race: Race, gates: Sequence[GateSpec], strict: Sequence[GateSpec], objective: str
) -> Choice:
    """Return the fastest candidate that meets the strict gates; else the gates; else the most accurate of all.

    `trials` holds at least one candidate that was built and run.
    """
    for specs, note in ((strict, ""), (gates, "the gates hold, but without the margin that the search keeps back")):
        met = [each for each in race.latencies if trials[each].is_met(specs)]
        if met:
            fastest = min(map(race.cost, met))
            near = [each for each in met if race.cost(each) <= fastest * SAME_SPEED]
            return Choice(max(near, key=lambda each: merit(trials[each], gates, objective)), True, note)
    run = [each for each, trial in trials.items() if trial.outputs]
    return Choice(max(run, key=lambda each: merit(trials[each], gates, objective)), False)


def merit(trial: Trial, gates: Sequence[GateSpec], objective: str) -> tuple[float, float]:
    """Return how accurate a trial is, greater for better: by the objective, then by its signal-to-error ratio."""
    figure = trial.figures(gates).get(objective)
    if figure is None or math.isnan(figure) or trial.reason:
        return -math.inf, -math.inf
    sqnr = least_sqnr_db(trial)
    return (figure if GATES[objective].bound == "at least" else -figure), sqnr if sqnr is not None else math.inf


def least_sqnr_db(trial: Trial) -> float | None:
    found = [output.sqnr_db for output in trial.outputs if not output.is_exact and output.sqnr_db == output.sqnr_db]
    return min(found, default=None)


def front(trials: Mapping[Candidate, Trial], race: Race, gates: Sequence[GateSpec], objective: str) -> set[Candidate]:
    """Return the timed candidates of which no other is at least as fast and as accurate, and better in one of both."""
    points = {each: (-race.cost(each), merit(trials[each], gates, objective)[0]) for each in race.latencies}
    return {
        each
        for each, (speed, accuracy) in points.items()
        if not any(
            other != (speed, accuracy) and other[0] >= speed and other[1] >= accuracy for other in points.values()
        )
    }


def told_trials(
    trials: Mapping[Candidate, Trial],
    race: Race,
    choice: Choice,
    gates: Sequence[GateSpec],
    strict: Sequence[GateSpec],
    objective: str,
) -> tuple[SearchTrial, ...]:
    """Return every trial for the report, the fastest first, those not timed last; titles are unique."""
    best = front(trials, race, gates, objective)
    titles: dict[str, int] = {}
    told = []
    for candidate in sorted(trials, key=lambda each: race.cost(each) if each in race.latencies else math.inf):
        trial = trials[candidate]
        count = titles[candidate.title] = titles.get(candidate.title, 0) + 1
        told.append(
            SearchTrial(
                title=candidate.title if count == 1 else f"{candidate.title} ({count})",
                precision=candidate.precision,
                rest=candidate.rest,
                kept=candidate.keep,
                is_met=trial.is_met(strict),
                figures=trial.figures(gates),
                sqnr_db=least_sqnr_db(trial),
                latency_ms={shapes: latency.median_ms for shapes, latency in race.latencies.get(candidate, {}).items()},
                size_bytes=trial.size_bytes,
                is_on_front=candidate in best,
                is_chosen=candidate == choice.candidate,
                reason=trial.reason,
            )
        )
    return tuple(told)


def why_chosen(
    trials: Mapping[Candidate, Trial], race: Race, choice: Choice, strict: Sequence[GateSpec], objective: str
) -> str:
    """Return in one sentence why this candidate was taken, with the figures of those that it was taken before."""
    chosen = choice.candidate
    whole = Candidate("int8", chosen.rest)
    times = {each.title: _time(race, each) for each in race.latencies if each.is_plain and each != chosen}
    others = "; ".join(f"{title} takes {time}" for title, time in times.items())
    shortfall = _shortfall(trials.get(whole), strict, objective)
    if not choice.is_met:
        best = _shortfall(trials[chosen], strict, objective)
        return f"no candidate meets the gates on the validation samples; the most accurate is {chosen.title} ({best})"
    if chosen.precision != "int8":
        met = [each for each in race.latencies if each.precision == "int8" and trials[each].is_met(strict)]
        why = "no int8 mixture that was tried meets the gates"
        if met:
            quickest = min(met, key=race.cost)
            is_slower = race.cost(quickest) > race.cost(chosen)
            why = "quantized is slower" if is_slower else "quantized is hardly faster"
            why += f": {quickest.title} takes {_time(race, quickest)}"
        elif shortfall:
            why += f" (int8: {shortfall})"
        text = f"{_praise(trials, race, chosen, strict)}: {why}"
    elif chosen.keep and shortfall:
        text = f"{whole.title} alone misses the gates ({shortfall}); {chosen.title} meets them, {_time(race, chosen)}"
    elif chosen.keep:
        text = _praise(trials, race, chosen, strict)
    else:
        text = f"{chosen.title} meets the gates with no operator kept, {_time(race, chosen)}"
    return "; ".join(filter(None, (text, others, choice.note)))


def _praise(trials: Mapping[Candidate, Trial], race: Race, chosen: Candidate, strict: Sequence[GateSpec]) -> str:
    met = [each for each in race.latencies if each == chosen or trials[each].is_met(strict)]
    fastest = min(met, key=race.cost)
    time = _time(race, chosen)
    if race.cost(chosen) <= race.cost(fastest):
        return f"{chosen.title} is the fastest that meets the gates, {time}"
    behind = f"{SAME_SPEED - 1:.0%} of the fastest that meets the gates ({fastest.title})"
    return f"{chosen.title} is within {behind} and more accurate, {time}"


def kept_layers(
    trial: Trial, layers: Sequence[LayerSensitivity], operators: Mapping[str, str]
) -> tuple[KeptLayer, ...]:
    """Return the operators that `trial` keeps out of int8: those that the search chose, then those that can't be.

    `operators` maps node names to operator types.
    """
    if trial.candidate.precision != "int8":
        return ()
    ranked = sorted(layers, key=lambda layer: layer.sqnr_db)
    rank = {layer.name: position for position, layer in enumerate(ranked, start=1)}
    found = {layer.name: layer for layer in layers}
    kept = []
    for name in trial.candidate.keep:
        layer = found[name]
        loss = f"alone in int8 it leaves the outputs {layer.sqnr_db:.1f} dB"
        cost = f"{layer.share:.1%} of the multiplications"
        reason = f"{loss}, number {rank[name]} of {len(layers)} from the worst, and has {cost}"
        kept.append(KeptLayer(name, layer.op_type, reason))
    refused = [KeptLayer(name, operators.get(name, ""), reason) for name, reason in trial.refused]
    return (*kept, *refused)


def _shortfall(trial: Trial | None, strict: Sequence[GateSpec], objective: str) -> str:
    """Return the first gate that a trial misses, in words: the objective's if that is one."""
    if trial is None:
        return ""
    if trial.reason:
        return trial.reason
    figures = trial.figures(strict)
    missed = [
        spec
        for spec in sorted(strict, key=lambda spec: spec.name != objective)
        if (figure := figures.get(spec.name)) is None or not spec.is_met_by(figure)
    ]
    if not missed:
        return ""
    figure = figures.get(missed[0].name)
    return f"{missed[0].name} {number_text(figure)}, wanted {number_text(missed[0].threshold)}"


def _time(race: Race, candidate: Candidate) -> str:
    latencies = race.latencies.get(candidate, {})
    return ", ".join(f"{milliseconds_text(each.median_ms)} at {shapes}" for shapes, each in latencies.items())
