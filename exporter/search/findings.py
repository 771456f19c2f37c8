"""Frozen results of a search: each layer's sensitivity, every trial, what was chosen and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What one operator alone in low precision does to the model's outputs.

    sqnr_db, cosine, top1_agreement: the worst output against the float graph; inf, 1 where nothing changes. None where
        no output has an answer to agree on.
    share: of the multiplications of all these operators; an estimate of the time that its low precision can save.
    """

    name: str
    op_type: str
    sqnr_db: float
    cosine: float
    share: float
    top1_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """An operator that stays in high precision, and why."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """One candidate that was built and run on the validation samples.

    precision: "int8", or that of the whole graph. rest: what the operators that are not int8 compute in.
    figures: gate name -> what was measured on the validation samples. is_met: the gates hold there, with the margin.
    latency_ms: input shapes -> median time of one call; empty when it was not timed.
    is_on_front: no other trial is both faster and more accurate.
    """

    title: str
    precision: str
    rest: str
    kept: tuple[str, ...]
    is_met: bool
    figures: Mapping[str, float | None] = field(default_factory=dict)
    sqnr_db: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    size_bytes: int = 0
    is_on_front: bool = False
    is_chosen: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SearchReport:
    """How an artifact's precision was searched for.

    gates: those that the search held its candidates to, the margin included. objective: the gate that the front's
        accuracy is told in. calibration_samples, validation_samples: how the calibration data was split.
    resumed: trials whose accuracy was known from an earlier run.
    """

    chosen: str
    why: str
    is_met: bool
    gates: tuple[str, ...]
    objective: str
    trials: tuple[SearchTrial, ...]
    kept: tuple[KeptLayer, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    calibration_samples: int = 0
    validation_samples: int = 0
    resumed: int = 0
    is_disturbed: bool = False
    notes: tuple[str, ...] = ()
