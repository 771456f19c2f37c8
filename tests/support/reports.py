"""Build reports as the tests need them: a realistic one, and what can be wrong with it."""

from __future__ import annotations

import math

import numpy as np

from exporter.results import (
    ArtifactReport,
    Attempt,
    BuildReport,
    Gate,
    Latency,
    OutputAccuracy,
    PipelineReport,
    SpeedComparison,
    StageAccuracy,
    Verdict,
)
from passes.base import Event, PassResult
from passes.errors import ExitCode
from passes.observers import PassStatistics

SHAPES = ("attention_mask [1, 12], input_ids [1, 12]", "attention_mask [8, 32], input_ids [8, 32]")


def output(name: str = "last_hidden_state", sqnr_db: float = 124.3, **others: object) -> OutputAccuracy:
    error = 10 ** (-sqnr_db / 20) if math.isfinite(sqnr_db) else 0.0
    values = {
        "elements": 98304,
        "cosine": 1.0 - error**2,
        "max_abs": 6.1 * error,
        "reference_max_abs": 4.8,
        "worst_sample_sqnr_db": sqnr_db - 3.1,
        "worst_sample": f"sample 3 ({SHAPES[1]})",
        **others,
    }
    return OutputAccuracy(name=name, sqnr_db=sqnr_db, **values)


def stage(
    name: str, precision: str = "fp32", sqnr_db: float = 124.3, threshold: float = 100.0, **others: object
) -> StageAccuracy:
    verdict = Verdict.PASSED if sqnr_db >= threshold else Verdict.FAILED
    reason = (
        ""
        if verdict is Verdict.PASSED
        else f"sqnr_db is {sqnr_db:g}, the gate {threshold:g}, output 'last_hidden_state'"
    )
    values = {
        "verdict": verdict,
        "outputs": (output(sqnr_db=sqnr_db),),
        "gates": (Gate("sqnr_db", threshold, sqnr_db, verdict, "output 'last_hidden_state'"),),
        "samples": 24,
        "input_shapes": SHAPES,
        "reason": reason,
        **others,
    }
    return StageAccuracy(stage=name, precision=precision, **values)


def latency(label: str, median_ms: float, runs: int = 60) -> Latency:
    noise = np.random.default_rng(len(label)).lognormal(0.0, 0.03, size=runs)
    times = tuple(round(median_ms * float(value), 6) for value in noise)
    return Latency(label, median_ms, median_ms * 0.985, median_ms * 1.02, runs, times)


def speed(baseline: tuple[str, float], candidate: tuple[str, float]) -> SpeedComparison:
    ratio = baseline[1] / candidate[1]
    conclusion = "faster" if ratio > 1.05 else "slower" if ratio < 0.95 else "no difference beyond noise"
    return SpeedComparison(
        latency(*baseline), latency(*candidate), ratio, ratio * 0.97, ratio * 1.03, conclusion, SHAPES[1], 2, 0.021
    )


EAGER, COMPILED = ("original", 14.2), ("torch.compile", 11.9)


def artifact(target: str, precision: str, sqnr_db: float, median_ms: float, size_bytes: int) -> ArtifactReport:
    threshold = 80.0 if precision == "fp32" else 14.0
    accuracy = stage(f"{target} {precision}", precision, sqnr_db, threshold)
    return ArtifactReport(
        target=target,
        precision=precision,
        label=precision,
        path=f"{target}/{precision}",
        verdict=accuracy.verdict,
        accuracy=accuracy,
        speed=(
            speed(EAGER, (f"{target} {precision}", median_ms)),
            speed(COMPILED, (f"{target} {precision}", median_ms)),
        ),
        gates=(Gate("size_ratio", 1.1, size_bytes / 90_900_000, Verdict.PASSED, "", ExitCode.SPEED),),
        size_bytes=size_bytes,
        build_seconds=3.4,
        details={"inference_precision": "f32", "threads": 2},
        exit_code=accuracy.exit_code,
    )


def pipeline(name: str = "optimize") -> PipelineReport:
    results = (
        PassResult("fold-constants", tuple(Event("fold-constants", f"node_{index}") for index in range(118))),
        PassResult(
            "fuse-gelu",
            tuple(Event("fuse-gelu", f"encoder.layer.{index}.Erf") for index in range(6)),
            (Event("fuse-gelu", "pooler.Erf", "output 'erf_6' also feeds Relu_3"),),
        ),
        PassResult(
            "fuse-attention",
            tuple(Event("fuse-attention", f"encoder.layer.{index}.MatMul_2") for index in range(5)),
            (Event("fuse-attention", "encoder.layer.5.MatMul_2", "the mask is not constant over heads"),),
        ),
    )
    statistics = (
        PassStatistics("fold-constants", 0.41, 612, 494, 118, 0),
        PassStatistics("fuse-gelu", 0.03, 494, 470, 6, 1),
        PassStatistics("fuse-attention", 0.12, 470, 96, 5, 1),
    )
    return PipelineReport(name, "fold-constants,fuse-gelu,fuse-attention", statistics, results, 612, 96, 0.56)


def build_report() -> BuildReport:
    """Return a build that passed, but for a TensorRT engine that has no device here and was waived."""
    tensorrt = ArtifactReport(
        target="tensorrt",
        precision="fp32",
        label="sm89-fp32",
        path="tensorrt/sm89-fp32",
        verdict=Verdict.WAIVED,
        reason="built ahead of time for compute capability 8.9; this machine has no GPU",
        size_bytes=91_400_000,
        build_seconds=41.0,
        waived=("execution",),
    )
    return BuildReport(
        source="examples/minilm.py:model",
        source_sha256="5f" * 32,
        out="out",
        attempts=(
            Attempt("torch.export, strict", 4.1, "data-dependent branch in pooling"),
            Attempt("torch.export", 6.2),
        ),
        pipelines=(pipeline(),),
        stages=(
            stage("trace"),
            stage("optimize", sqnr_db=121.9),
            stage("quantize for openvino int8", "int8", 24.1, 14.0),
        ),
        artifacts=(
            artifact("onnxruntime", "fp32", 121.7, 9.8, 90_900_000),
            artifact("onnxruntime", "int8", 23.8, 14.1, 23_400_000),
            artifact("openvino", "fp32", 118.2, 7.9, 91_000_000),
            artifact("openvino", "int8", 24.0, 4.6, 23_100_000),
            artifact("xla", "fp32", 119.4, 15.9, 90_900_000),
            tensorrt,
        ),
        baselines=(speed(EAGER, COMPILED),),
        samples={"held out": "24 samples from examples/minilm.py:samples", "calibration": "128 samples"},
        environment={"cpu": "Example CPU, 2 cores", "python": "3.11.9", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        seconds={"trace": 10.3, "optimize": 0.56, "verify": 21.0, "total": 118.4},
        notes=("the machine was busy: load 1.9 on 2 processors when the measurement began",),
        verdict=Verdict.PASSED,
        exit_code=ExitCode.OK,
        model_size_bytes=90_900_000,
    )
