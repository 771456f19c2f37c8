"""What each operator alone costs in accuracy, on real samples, and which mixtures look good enough to build."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.evaluation.accuracy import judge_outputs
from exporter.evaluation.difference import Difference, is_exact
from exporter.results import OutputAccuracy, Verdict
from exporter.search.findings import LayerSensitivity

if TYPE_CHECKING:
    from exporter.evaluation.padding import Padding
    from exporter.evaluation.tolerance import GateSpec
    from exporter.search.switchboard import Switchboard
    from exporter.sources.base import Feeds
    from targets.base import Array

MOST_SAMPLES = 4
"""Samples that every operator is run on; a sample is a batch."""

BUDGET_S = 120.0
"""No further sample is begun when all of them would take longer than this."""


def chosen_samples(samples: Iterable[Feeds], *, most: int = MOST_SAMPLES) -> tuple[Feeds, ...]:
    """Return up to `most` samples, evenly spread over all, the first of them included."""
    everything = list(samples)
    if len(everything) <= most:
        return tuple(everything)
    return tuple(everything[index * len(everything) // most] for index in range(most))


def measure_layers(
    board: Switchboard,
    samples: Sequence[Feeds],
    *,
    padding: Padding | None = None,
    budget_s: float = BUDGET_S,
    advance: Callable[[], None] = lambda: None,
) -> tuple[tuple[LayerSensitivity, ...], int]:
    """Return each operator's sensitivity, in graph order, and how many samples were run; the float graph is the truth.

    At least one sample is run; `advance` is called after each operator's run.
    """
    differences: dict[str, dict[str, Difference]] = {name: {} for name in board.names}
    work = dict.fromkeys(board.names, 0)
    started = time.monotonic()
    done = 0
    for done, feeds in enumerate(samples, start=1):
        truth = board.run(feeds, ())
        for name, amount in board.work(feeds).items():
            work[name] += amount
        for name in board.names:
            _add(differences[name], truth, board.run(feeds, (name,)), feeds, padding)
            advance()
        if (time.monotonic() - started) * (done + 1) / done > budget_s:
            break
    total = max(1, sum(work.values()))
    layers = tuple(
        _layer(switch.name, switch.op_type, differences[switch.name], share=work[switch.name] / total)
        for switch in board.graph.switches
    )
    return layers, done


def predictor(
    board: Switchboard, samples: Sequence[Feeds], specs: Sequence[GateSpec], *, padding: Padding | None = None
) -> Callable[[Sequence[str]], bool]:
    """Return a function that says whether the gates hold, on these samples, when the operators given are kept."""
    truths = [board.run(feeds, ()) for feeds in samples]

    def is_predicted(kept: Sequence[str]) -> bool:
        low = set(board.names) - set(kept)
        found: dict[str, Difference] = {}
        for feeds, truth in zip(samples, truths, strict=True):
            _add(found, truth, board.run(feeds, low), feeds, padding)
        return holds(tuple(difference.result() for difference in found.values()), specs)

    return is_predicted


def layers_from_record(record: Mapping[str, Any]) -> tuple[LayerSensitivity, ...]:
    """Return the sensitivities that an earlier search wrote down."""
    return tuple(LayerSensitivity(**layer) for layer in record["layers"])


def holds(outputs: Sequence[OutputAccuracy], specs: Sequence[GateSpec]) -> bool:
    """Return whether there are outputs, none has a problem, and every gate was judged and passed."""
    if not outputs or any(output.problems for output in outputs):
        return False
    judged = judge_outputs(outputs, specs)
    return bool(judged) and all(gate.verdict is Verdict.PASSED for gate in judged)


def _add(
    found: dict[str, Difference],
    truth: Mapping[str, Array],
    outputs: Mapping[str, Array],
    feeds: Feeds,
    padding: Padding | None,
) -> None:
    for name, reference in truth.items():
        difference = found.setdefault(name, Difference(name, exact=is_exact(reference.dtype)))
        value = np.asarray(outputs[name])
        mask = padding.real_positions(name, feeds) if padding is not None else None
        if mask is not None:
            reference, value = reference[mask], value[mask]
        difference.add(reference, value, sample="")


def _layer(name: str, op_type: str, differences: Mapping[str, Difference], *, share: float) -> LayerSensitivity:
    outputs = [difference.result() for difference in differences.values()]
    floats = [output for output in outputs if not output.is_exact and output.elements]
    agreements = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    cosines = [output.cosine for output in floats if output.cosine == output.cosine]
    ratios = [output.sqnr_db for output in floats if output.sqnr_db == output.sqnr_db]
    return LayerSensitivity(
        name=name,
        op_type=op_type,
        sqnr_db=min(ratios, default=float("inf")),
        cosine=min(cosines, default=1.0),
        share=share,
        top1_agreement=min(agreements, default=None),
    )
