"""A stage or an artifact against the original: outputs by name, figures streamed, gates judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from exporter.evaluation.difference import Difference, as_float64, is_exact
from exporter.evaluation.tolerance import GateSpec, accuracy_gates
from exporter.results import Gate, OutputAccuracy, StageAccuracy, Verdict
from passes.errors import ExitCode, GraphwrightError

if TYPE_CHECKING:
    import numpy.typing as npt

    from exporter.evaluation.padding import Padding
    from exporter.sources.base import Feeds
    from targets.base import Array

Outputs = Mapping[str, "Array"]

MOST_SHAPES = 12
"""How many different input shapes a stage lists."""


def compare_runs(
    reference: Iterable[tuple[Feeds, Outputs]],
    candidate: Callable[[Feeds], Outputs],
    *,
    stage: str,
    precision: str,
    gates: Sequence[GateSpec],
    padding: Padding | None = None,
    advance: Callable[[], None] = lambda: None,
) -> StageAccuracy:
    """Return how `candidate` does on the reference's samples, judged by those of `gates` that are about accuracy.

    Fails closed: no samples, no outputs, no gates, or a candidate that raises have not passed. A candidate that cannot
    run here at all (CannotRun, MissingDependency) is NOT_RUN. `advance` is called after each sample.

    `padding` says which positions of which outputs are padding: they are not compared, since what a model computes
    there means nothing and nobody reads it. It must be finite, though.
    """
    comparison = _Comparison()
    for index, (feeds, expected) in enumerate(reference):
        sample = f"sample {index} ({shapes_of(feeds)})"
        comparison.shapes.setdefault(shapes_of(feeds), None)
        comparison.samples += 1
        try:
            actual = candidate(feeds)
        except Exception as error:
            not_run = isinstance(error, GraphwrightError) and error.exit_code is ExitCode.NOT_RUN
            comparison.stopped = Verdict.NOT_RUN if not_run else Verdict.FAILED
            comparison.reason = f"{sample}: {type(error).__name__}: {_first_line(error)}"
            break
        masks = {name: padding.real_positions(name, feeds) for name in expected} if padding is not None else {}
        comparison.add(expected, actual, sample=sample, masks=masks)
        advance()
    return comparison.judged(stage=stage, precision=precision, gates=accuracy_gates(gates))


@dataclass(slots=True)
class _Comparison:
    """A stage's comparison under way."""

    differences: dict[str, Difference] = field(default_factory=dict)
    shapes: dict[str, None] = field(default_factory=dict)
    samples: int = 0
    stopped: Verdict | None = None
    reason: str = ""

    def add(
        self, expected: Outputs, actual: Outputs, *, sample: str, masks: Mapping[str, npt.NDArray[np.bool_] | None]
    ) -> None:
        for name in actual:
            if name not in expected:
                self._of(name).problems.append(f"{sample}: the original has no such output")
        for name, reference in expected.items():
            difference = self._of(name)
            difference.exact = is_exact(reference.dtype)
            if name not in actual:
                difference.problems.append(f"{sample}: missing")
                continue
            value = np.asarray(actual[name])
            mismatch = _mismatch(reference, value)
            if mismatch:
                difference.problems.append(f"{sample}: {mismatch}")
                continue
            difference.problems.extend(f"{sample}: {problem}" for problem in _non_finite(reference, value))
            mask = masks.get(name)
            if mask is not None:
                reference, value = reference[mask], value[mask]
            difference.add(reference, value, sample=sample)

    def _of(self, name: str) -> Difference:
        return self.differences.setdefault(name, Difference(name))

    def judged(self, *, stage: str, precision: str, gates: Sequence[GateSpec]) -> StageAccuracy:
        outputs = tuple(_summed_up(difference.result()) for difference in self.differences.values())
        judged = judge_outputs(outputs, gates) if outputs else ()
        verdict, reason = self.stopped, self.reason
        broken = [f"'{output.name}': {output.problems[0]}" for output in outputs if output.problems]
        failed = [gate_text(gate) for gate in judged if gate.verdict is Verdict.FAILED]
        not_run = [gate_text(gate) for gate in judged if gate.verdict is Verdict.NOT_RUN]
        if verdict is not None:
            pass
        elif not self.samples:
            verdict, reason = Verdict.NOT_RUN, "there was no sample to compare on"
        elif not outputs:
            verdict, reason = Verdict.FAILED, "the original gave no output to compare"
        elif broken or failed:
            verdict, reason = Verdict.FAILED, "; ".join([*broken, *failed])
        elif not_run or not judged:
            verdict, reason = Verdict.NOT_RUN, "; ".join(not_run) or "no gate applies"
        else:
            verdict = Verdict.PASSED
        shapes = tuple(self.shapes)
        if len(shapes) > MOST_SHAPES:
            shapes = (*shapes[: MOST_SHAPES - 1], f"and {len(shapes) - MOST_SHAPES + 1} more")
        return StageAccuracy(
            stage=stage,
            precision=precision,
            verdict=verdict,
            outputs=outputs,
            gates=judged,
            samples=self.samples,
            input_shapes=shapes,
            reason=reason,
        )


def judge_outputs(outputs: Sequence[OutputAccuracy], gates: Sequence[GateSpec]) -> tuple[Gate, ...]:
    """Return each gate judged by the worst output that it applies to.

    Integer and boolean outputs are judged by `top1_agreement`, the share of equal elements: 1 unless the user gave
    another. Where all outputs are such, the other default gates say nothing and are left out.
    """
    specs = list(gates)
    has_exact = any(output.is_exact for output in outputs)
    if has_exact and not any(spec.name == "top1_agreement" for spec in specs):
        specs.append(GateSpec("top1_agreement", 1.0))
    if all(output.is_exact for output in outputs):
        specs = [spec for spec in specs if spec.is_users or spec.name == "top1_agreement"]
    return tuple(_judged(spec, outputs) for spec in specs)


def _judged(spec: GateSpec, outputs: Sequence[OutputAccuracy]) -> Gate:
    read = _MEASURES[spec.name]
    wants_exact = spec.name == "top1_agreement" and not spec.is_users
    readings = [
        (value, output.name)
        for output in outputs
        if (output.is_exact or not wants_exact) and (value := read(output)) is not None
    ]
    if not readings:
        reason = _joined("no output that it applies to", spec.origin)
        return Gate(spec.name, spec.threshold, None, Verdict.NOT_RUN, reason)
    pick = min if spec.kind.bound == "at least" else max
    measured, name = pick(readings, key=lambda reading: reading[0])
    verdict = Verdict.PASSED if spec.is_met_by(measured) else Verdict.FAILED
    return Gate(spec.name, spec.threshold, measured, verdict, _joined(f"output '{name}'", spec.origin))


def _max_relative(output: OutputAccuracy) -> float:
    if output.max_abs == 0:
        return 0.0
    return output.max_abs / output.reference_max_abs if output.reference_max_abs > 0 else math.inf


def _of_floats(read: Callable[[OutputAccuracy], float]) -> Callable[[OutputAccuracy], float | None]:
    def reading(output: OutputAccuracy) -> float | None:
        value = read(output)
        return None if output.is_exact or not output.elements or math.isnan(value) else value

    return reading


_MEASURES: Mapping[str, Callable[[OutputAccuracy], float | None]] = {
    "sqnr_db": _of_floats(lambda output: output.sqnr_db),
    "worst_sample_sqnr_db": _of_floats(lambda output: output.worst_sample_sqnr_db),
    "cosine": _of_floats(lambda output: output.cosine),
    "max_relative": _of_floats(_max_relative),
    "max_abs": lambda output: output.max_abs if output.elements else None,
    "top1_agreement": lambda output: output.top1_agreement,
}


def gate_text(gate: Gate) -> str:
    """Return a gate that did not pass in one phrase: what was asked, what was measured, where."""
    measured = "not measured" if gate.measured is None else f"{gate.measured:.6g}"
    return _joined(f"{gate.name} is {measured}, the gate {gate.threshold:.6g}", gate.reason)


def shapes_of(feeds: Feeds) -> str:
    """Return the input shapes in words: "input_ids [8, 32], attention_mask [8, 32]"."""
    return ", ".join(f"{name} {list(np.shape(value))}" for name, value in sorted(feeds.items()))


def _mismatch(reference: Array, value: Array) -> str:
    if value.dtype != reference.dtype:
        return f"its type is {value.dtype}, the original's {reference.dtype}"
    if value.shape != reference.shape:
        return f"its shape is {list(value.shape)}, the original's {list(reference.shape)}"
    return ""


def _non_finite(reference: Array, value: Array) -> list[str]:
    if is_exact(reference.dtype):
        return []
    in_reference = ~np.isfinite(as_float64(reference))
    in_value = ~np.isfinite(as_float64(value)) & ~in_reference
    problems = []
    if in_reference.any():
        problems.append(f"the original itself gives {int(in_reference.sum())} elements that are not finite")
    if in_value.any():
        problems.append(f"{int(in_value.sum())} of {reference.size} elements are not finite where the original's are")
    return problems


def _summed_up(output: OutputAccuracy) -> OutputAccuracy:
    """Return `output` with its first problem and how many more samples had one."""
    if len(output.problems) < 2:
        return output
    return replace(output, problems=(output.problems[0], f"and {len(output.problems) - 1} more like it"))


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message")
