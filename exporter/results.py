"""Frozen results: what a build, a verification or a measurement found. `exporter.report` alone formats them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from exporter.search.findings import SearchReport
from passes.base import PassResult
from passes.check import CheckReport
from passes.errors import ExitCode
from passes.observers import PassStatistics


class Verdict(StrEnum):
    """How a check ended. NOT_RUN never counts as passed; WAIVED is a NOT_RUN that the user allowed beforehand."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"
    WAIVED = "waived"


@dataclass(frozen=True, slots=True)
class OutputAccuracy:
    """One output compared with the original's over all samples.

    sqnr_db: 10 log10(sum(reference^2) / sum((reference - candidate)^2)), in dB; inf when bit-equal, nan when nothing
        could be compared.
    cosine: the least cosine similarity over samples' rows; nan for outputs without direction (all zero).
    top1_agreement: share of rows with the same argmax over the last axis, or of equal elements for an integer output;
        None where that has no meaning.
    problems: a missing, extra, misshapen, mistyped or non-finite output, in words; any of these is a failure.
    worst_sample_sqnr_db: the output's mean power over all samples against the error power of the worst sample, in dB.
    worst_sample: that sample's index and input shapes, in words.
    is_exact: an integer or boolean output, compared for equality; its dB figures gate nothing.
    notes: what makes the comparison prove little, such as an output that is the same for every sample.
    """

    name: str
    elements: int
    sqnr_db: float
    cosine: float
    max_abs: float
    reference_max_abs: float
    top1_agreement: float | None = None
    problems: tuple[str, ...] = ()
    worst_sample_sqnr_db: float = math.inf
    worst_sample: str = ""
    is_exact: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """One threshold and how it went; `name` is one of those that exporter.evaluation.tolerance.GATES describes."""

    name: str
    threshold: float
    measured: float | None
    verdict: Verdict
    reason: str = ""
    exit_code: ExitCode = ExitCode.ACCURACY


@dataclass(frozen=True, slots=True)
class StageAccuracy:
    """One stage (trace, optimize, quantize, or an artifact) against the original on held-out samples.

    input_shapes: the shapes that were run, so that a reader sees which batch sizes and lengths were covered.
    """

    stage: str
    precision: str
    verdict: Verdict
    outputs: tuple[OutputAccuracy, ...] = ()
    gates: tuple[Gate, ...] = ()
    samples: int = 0
    input_shapes: tuple[str, ...] = ()
    reason: str = ""

    @property
    def could_not_run(self) -> bool:
        """Whether nothing was computed at all; a gate that could not be measured on outputs is another matter."""
        return self.verdict is Verdict.NOT_RUN and not self.outputs

    @property
    def exit_code(self) -> ExitCode:
        return {Verdict.FAILED: ExitCode.ACCURACY, Verdict.NOT_RUN: ExitCode.NOT_RUN}.get(self.verdict, ExitCode.OK)


@dataclass(frozen=True, slots=True)
class Latency:
    """One side of an interleaved measurement; times in ms. The interval is the median's 95% confidence interval."""

    label: str
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    times_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeedComparison:
    """Original and artifact measured in turn (A B A B) on the same input.

    ratio: median over rounds of original/artifact, >1 means the artifact is faster; with its 95% interval.
    conclusion: "faster", "slower" or "no difference beyond noise".
    noise_floor: what the whole interval had to clear 1 by: the original measured against itself, at least 0.02.
    is_disturbed: other processes took so much of the processors that no difference was concluded.
    """

    baseline: Latency
    candidate: Latency
    ratio: float
    ratio_low: float
    ratio_high: float
    conclusion: str
    input_shapes: str
    threads: int
    noise_floor: float = 0.0
    notes: tuple[str, ...] = ()
    is_disturbed: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """One artifact: where it is, how accurate, how fast, how large, or why it is not there.

    search: how its precision was chosen; None where the user chose it.
    """

    target: str
    precision: str
    label: str
    path: str
    verdict: Verdict
    accuracy: StageAccuracy | None = None
    speed: tuple[SpeedComparison, ...] = ()
    gates: tuple[Gate, ...] = ()
    size_bytes: int = 0
    build_seconds: float = 0.0
    blockers: tuple[str, ...] = ()
    reason: str = ""
    waived: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    exit_code: ExitCode = ExitCode.OK
    search: SearchReport | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One tracing strategy that was tried; `reason` is empty for the one that worked."""

    strategy: str
    seconds: float
    reason: str = ""

    @property
    def succeeded(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """One run of a pipeline: its text, each pass's statistics, and what was applied and refused.

    check: what `--check` compared; None when it was not asked for.
    size_before_bytes, size_after_bytes: the model files with their external data; 0 where no file was written.
    """

    stage: str
    pipeline: str
    statistics: tuple[PassStatistics, ...]
    results: tuple[PassResult, ...]
    nodes_before: int
    nodes_after: int
    seconds: float
    check: CheckReport | None = None
    size_before_bytes: int = 0
    size_after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What the user should know though no gate asks for it.

    kind: "quantized is slower", for one. subject: the artifact. summary: the fact with its figures. reasons: causes of
    it. advice: what to do. recommended: the artifact to take instead, "" for none.
    """

    kind: str
    subject: str
    summary: str
    reasons: tuple[str, ...]
    advice: str
    recommended: str = ""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """All that a build, or a verification of existing artifacts, found. `exit_code` is the worst of its parts.

    model_size_bytes: the portable fp32 model with its external data; what an artifact's size is a share of. 0: unknown.
    """

    source: str
    source_sha256: str
    out: str
    attempts: tuple[Attempt, ...]
    pipelines: tuple[PipelineReport, ...]
    stages: tuple[StageAccuracy, ...]
    artifacts: tuple[ArtifactReport, ...]
    baselines: tuple[SpeedComparison, ...] = ()
    samples: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdict: Verdict = Verdict.NOT_RUN
    exit_code: ExitCode = ExitCode.INTERNAL
    model_size_bytes: int = 0
    findings: tuple[Finding, ...] = ()
