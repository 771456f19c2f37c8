"""Gates as a search holds its candidates to them: a little stricter, since other data will judge the winner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from exporter.evaluation.tolerance import GateSpec, UserGate, accuracy_gates, gates_for
from exporter.precisions import AUTO
from targets.base import Precision

JUDGED_AS: Precision = "int8"
"""The row of default gates for all candidates alike: one budget, whatever a candidate is made of."""

# Of the allowed error, a quarter is left for data that the search has not seen: the least cosine of other rows, the
# worst error of other samples. A decibel is a fifth of the error's power.
_STRICTER: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "sqnr_db": lambda threshold: threshold + 1.0,
        "worst_sample_sqnr_db": lambda threshold: threshold + 1.0,
        "cosine": lambda threshold: 1 - 0.75 * (1 - threshold),
        "top1_agreement": lambda threshold: 1 - 0.75 * (1 - threshold),
        "max_abs": lambda threshold: 0.75 * threshold,
        "max_relative": lambda threshold: 0.75 * threshold,
    }
)


def auto_gates(user_gates: Sequence[UserGate]) -> tuple[UserGate, ...]:
    """Return those of the user's gates that hold for an auto artifact, without its scope; the narrower ones last.

    A gate of one precision ("int8:cosine=0.99") is about artifacts of that name, not about a mixture.
    """
    general = [gate for gate in user_gates if not gate.precision]
    return (*general, *(replace(gate, precision="") for gate in user_gates if gate.precision == AUTO))


def budget(user_gates: Sequence[UserGate], *, target: str) -> tuple[GateSpec, ...]:
    """Return the accuracy gates of every candidate, without the margin."""
    return accuracy_gates(gates_for(JUDGED_AS, stage=AUTO, target=target, user_gates=auto_gates(user_gates)))


def with_margin(specs: Sequence[GateSpec]) -> tuple[GateSpec, ...]:
    """Return the gates with a quarter of the allowed error kept back."""
    return tuple(
        replace(spec, threshold=_STRICTER[spec.name](spec.threshold)) if spec.name in _STRICTER else spec
        for spec in specs
    )


def objective_of(specs: Sequence[GateSpec]) -> str:
    """Return the gate that accuracy is told in: the user's first one, or the signal-to-error ratio."""
    return next((spec.name for spec in specs if spec.is_users), "sqnr_db")
