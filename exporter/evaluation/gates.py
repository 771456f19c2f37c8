"""User gates from text: `name=value`, `int8:cosine=0.995`, `openvino:speedup=1.0`, `openvino/int8:sqnr_db=20`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable

from exporter.evaluation.tolerance import ALIASES, FLOATS, GATES, OVER_FLOAT, UserGate
from passes.errors import UsageError
from targets.base import PRECISIONS


def parse_gates(
    texts: Iterable[str], *, targets: Collection[str], precisions: Collection[str] = PRECISIONS
) -> tuple[UserGate, ...]:
    """Return the gates in the order given.

    `targets` and `precisions` are what is built, and so what a scope may name: a gate that nothing is held to would
    pass unseen. Raises UsageError for an unknown name or
    scope (with the near matches), a value that is no number or out of range, and two gates of one name and scope.
    """
    gates: list[UserGate] = []
    for text in texts:
        gate = _gate_from_text(text, targets, precisions)
        twin = next((other for other in gates if _key(other) == _key(gate)), None)
        if twin is not None and twin != gate:
            raise UsageError(f"The gates '{twin}' and '{gate}' contradict each other.", hint="Keep one of them.")
        if twin is None:
            gates.append(gate)
    return tuple(gates)


def _gate_from_text(text: str, targets: Collection[str], precisions: Collection[str]) -> UserGate:
    scope, has_scope, rest = text.rpartition(":")
    name, has_value, value = rest.partition("=")
    name, value = name.strip(), value.strip()
    if not has_value or not name or not value or (has_scope and not scope.strip()):
        raise UsageError(
            f"The gate '{text}' is not of the form name=value or scope:name=value.",
            hint="For example 'int8:cosine=0.995' or 'openvino:speedup=1.0'.",
        )
    name = ALIASES.get(name, name)
    if name not in GATES:
        raise UsageError(f"There is no gate '{name}'.", hint=near_matches(name, [*GATES, *ALIASES]))
    target, precision = _scope_from_text(scope, text, targets, precisions) if has_scope else ("", "")
    if name == OVER_FLOAT:
        _require_both(text, precision, precisions)
    return UserGate(name, _threshold(name, value, text), precision=precision, target=target)


def _scope_from_text(scope: str, text: str, targets: Collection[str], precisions: Collection[str]) -> tuple[str, str]:
    target = precision = ""
    for part in (piece.strip() for piece in scope.split("/")):
        if part in precisions and not precision:
            precision = part
        elif part in targets and not target:
            target = part
        else:
            raise UsageError(
                f"The gate '{text}' is scoped by '{part}', which is no precision and no target of this run.",
                hint=near_matches(part, [*precisions, *targets]),
            )
    return target, precision


def _require_both(text: str, precision: str, precisions: Collection[str]) -> None:
    """Raise UsageError unless there is a quantized artifact that the gate holds, and a float one beside it."""
    if not FLOATS.isdisjoint({precision}) or FLOATS.issuperset(precisions):
        raise UsageError(
            f"The gate '{text}' is about quantized artifacts, and none is meant.", hint="For example: --precision int8"
        )
    if FLOATS.isdisjoint(precisions):
        raise UsageError(
            f"The gate '{text}' compares with a float artifact, and none is built.", hint="Add --precision fp32."
        )


def _threshold(name: str, value: str, text: str) -> float:
    kind = GATES[name]
    try:
        number = float(value)
    except ValueError as error:
        raise UsageError(
            f"The gate '{text}' needs a number, not '{value}'.", hint=f"{name}: {kind.summary}."
        ) from error
    if not math.isfinite(number) or not kind.lowest <= number <= kind.highest:
        raise UsageError(
            f"The gate '{text}' is out of range.",
            hint=f"{name} ({kind.summary}) lies between {kind.lowest:g} and {kind.highest:g}.",
        )
    return number


def near_matches(name: str, known: Collection[str]) -> str:
    """Return a hint that names what was probably meant, or all that there is."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(f"'{match}'" for match in near) + "?"
    return "Known are: " + ", ".join(sorted(known)) + "."


def _key(gate: UserGate) -> tuple[str, str, str]:
    return gate.name, gate.precision, gate.target
