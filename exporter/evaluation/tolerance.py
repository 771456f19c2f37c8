"""The one table of tolerances by precision, and which gates hold for a stage.

The table's numbers, and why:

- sqnr_db, dB, at least: signal power over error power, summed over all held-out samples. A rounding to p mantissa bits
  gives about 6.02 p + 5 dB for one operation, and a network of n layers loses about 10 log10(n) of it.
  fp32 (24 bits, 149 dB for one operation): 80 asks for four right digits after any reordering of sums that a runtime
  may do; an output scaled by 1.01 is at 40 dB, one scaled by 1.001 at 60 dB, and both fail. The trace and the rewritten
  fp32 graph differ from the original in the order of sums alone: a sentence encoder, a mobile image classifier, a
  convolutional pitch tracker and a stacked LSTM measure 117 to 128 dB, so 100 is asked of those stages.
  fp16 (11 bits, 71 dB): 45 leaves room for some hundred layers. bf16 (8 bits, 53 dB): 25, likewise.
  fp8 (e4m3, 4 bits, 29 dB for one operation): 12 leaves room for some fifty layers.
  int8: 14, an error of a fifth of the signal; classifiers mostly keep their answers there, embeddings want more.
  int8-dynamic is int8 with scales of its own for each input, and is held to the same.
- worst_sample_sqnr_db, dB, at least: 11 dB under sqnr_db. One sample may have 12 times the mean error, not more: a
  fault that one batch size or one length alone has drowns in the mean, and not here.
- cosine, at least: the least over rows. An error orthogonal to the row with the sqnr_db of the table gives
  1 - 10**(-sqnr_db/10) / 2; the gate leaves a row 10 times the mean error power or more (int8 and fp8: 5 times).
- max_relative, at most: the greatest error over the original's greatest magnitude; finds the single wrong element that
  no mean sees. About 10 standard deviations of the error that sqnr_db allows; for 8 bits, the output's whole range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from passes.errors import ExitCode

if TYPE_CHECKING:
    from targets.base import Precision

Bound = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class GateKind:
    """What a gate's name means: which side of the threshold is good, the range of thresholds, the code of a failure."""

    bound: Bound
    lowest: float
    highest: float
    exit_code: ExitCode
    summary: str


_GREATEST = 1e30

OVER_FLOAT = "speedup_over_float"
FLOATS: frozenset[str] = frozenset({"fp32", "bf16", "fp16"})
"""The precisions that are not quantized."""

GATES: Mapping[str, GateKind] = MappingProxyType(
    {
        "sqnr_db": GateKind("at least", -100.0, 300.0, ExitCode.ACCURACY, "signal over error power, dB, all samples"),
        "worst_sample_sqnr_db": GateKind(
            "at least", -100.0, 300.0, ExitCode.ACCURACY, "mean signal power over the worst sample's error power, dB"
        ),
        "cosine": GateKind("at least", -1.0, 1.0, ExitCode.ACCURACY, "least cosine similarity of a row"),
        "max_abs": GateKind("at most", 0.0, _GREATEST, ExitCode.ACCURACY, "greatest absolute error"),
        "max_relative": GateKind(
            "at most", 0.0, _GREATEST, ExitCode.ACCURACY, "greatest absolute error over the greatest magnitude"
        ),
        "top1_agreement": GateKind(
            "at least", 0.0, 1.0, ExitCode.ACCURACY, "share of rows with the same argmax, or of equal integers"
        ),
        "speedup": GateKind(
            "at least", 0.0, _GREATEST, ExitCode.SPEED, "original's time over the artifact's, lower end of its interval"
        ),
        OVER_FLOAT: GateKind(
            "at least",
            0.0,
            _GREATEST,
            ExitCode.SPEED,
            "time of the target's fastest float artifact over a quantized one's, lower end of its interval",
        ),
        "size_ratio": GateKind("at most", 0.0, _GREATEST, ExitCode.SPEED, "artifact's bytes over the fp32 model's"),
    }
)

ALIASES: Mapping[str, str] = MappingProxyType(
    {"sqnr": "sqnr_db", "top1": "top1_agreement", "size": "size_ratio", "over_float": OVER_FLOAT}
)

TOLERANCES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "graph": {"sqnr_db": 100.0, "worst_sample_sqnr_db": 89.0, "cosine": 0.999_999, "max_relative": 1e-4},
        "fp32": {"sqnr_db": 80.0, "worst_sample_sqnr_db": 69.0, "cosine": 0.999_99, "max_relative": 1e-3},
        "fp16": {"sqnr_db": 45.0, "worst_sample_sqnr_db": 34.0, "cosine": 0.999_8, "max_relative": 0.05},
        "bf16": {"sqnr_db": 25.0, "worst_sample_sqnr_db": 14.0, "cosine": 0.985, "max_relative": 0.5},
        "int8-weight-only": {"sqnr_db": 25.0, "worst_sample_sqnr_db": 14.0, "cosine": 0.985, "max_relative": 0.5},
        "int8": {"sqnr_db": 14.0, "worst_sample_sqnr_db": 3.0, "cosine": 0.90, "max_relative": 1.0},
        "int8-dynamic": {"sqnr_db": 14.0, "worst_sample_sqnr_db": 3.0, "cosine": 0.90, "max_relative": 1.0},
        "fp8": {"sqnr_db": 12.0, "worst_sample_sqnr_db": 1.0, "cosine": 0.84, "max_relative": 1.0},
        "int4-weight-only": {"sqnr_db": 10.0, "worst_sample_sqnr_db": -1.0, "cosine": 0.80, "max_relative": 1.0},
    }
)
"""Default gates by precision; "graph" is fp32 in a stage of GRAPH_STAGES."""

GRAPH_STAGES: Collection[str] = frozenset({"trace", "optimize"})


@dataclass(frozen=True, slots=True)
class UserGate:
    """A gate as the user gave it; `precision` and `target` narrow it, "" is any."""

    name: str
    threshold: float
    precision: str = ""
    target: str = ""

    def __str__(self) -> str:
        scope = "/".join(part for part in (self.target, self.precision) if part)
        return f"{scope}:{self.name}={self.threshold:g}" if scope else f"{self.name}={self.threshold:g}"


@dataclass(frozen=True, slots=True)
class GateSpec:
    """A threshold that holds for a stage. `replaces` is the default that a user's gate stands in for."""

    name: str
    threshold: float
    is_users: bool = False
    replaces: float | None = None

    @property
    def kind(self) -> GateKind:
        return GATES[self.name]

    def is_met_by(self, measured: float) -> bool:
        """Return whether `measured` is on the good side; nan never is."""
        return measured >= self.threshold if self.kind.bound == "at least" else measured <= self.threshold

    @property
    def origin(self) -> str:
        """Return who set the threshold, in words; "" for a default."""
        if not self.is_users:
            return ""
        return "set by the user" if self.replaces is None else f"set by the user instead of {self.replaces:g}"


def gates_for(
    precision: Precision, *, stage: str, target: str = "", user_gates: Sequence[UserGate] = ()
) -> tuple[GateSpec, ...]:
    """Return the gates of a stage: the table's, each replaced by the user's most narrowly scoped one of that name.

    `speedup`, `speedup_over_float` and `size_ratio` are there only when asked for, and only where `target` names an
    artifact's target; the second holds for quantized artifacts alone.
    """
    row = "graph" if precision == "fp32" and stage in GRAPH_STAGES else precision
    defaults = TOLERANCES[row]
    chosen: dict[str, UserGate] = {}
    for gate in sorted(user_gates, key=_narrowness):
        if gate.precision in ("", precision) and gate.target in ("", target):
            chosen[gate.name] = gate
    specs = []
    for name, kind in GATES.items():
        if kind.exit_code is ExitCode.SPEED and not target:
            continue
        if name == OVER_FLOAT and precision in FLOATS:
            continue
        if name in chosen:
            specs.append(GateSpec(name, chosen[name].threshold, is_users=True, replaces=defaults.get(name)))
        elif name in defaults:
            specs.append(GateSpec(name, defaults[name]))
    return tuple(specs)


def accuracy_gates(specs: Sequence[GateSpec]) -> tuple[GateSpec, ...]:
    """Return those that an accuracy comparison judges."""
    return tuple(spec for spec in specs if spec.kind.exit_code is ExitCode.ACCURACY)


def _narrowness(gate: UserGate) -> int:
    return bool(gate.precision) + 2 * bool(gate.target)
