"""What is to be built: one job for each target and precision, checked before any work begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import cast

from exporter.evaluation.gates import parse_gates
from exporter.evaluation.tolerance import UserGate
from exporter.precisions import AUTO, MAKINGS
from exporter.recipe import Recipe, TargetRequest
from passes.capabilities import WEIGHT_ONLY
from passes.errors import UsageError
from passes.parse import pipeline_from_text
from passes.pipeline import Pipeline
from passes.quantize.static import QuantizeStatic
from passes.quantize.weight_only.quantize_weights import QuantizeWeights
from targets.base import BuildOptions, DimRange, Precision, Target
from targets.registry import get_target


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to be made; `quantize` and `weights` are texts of the passes that put integers into its graph.

    is_auto: the precision is searched for. `options` then holds the one that was found, fp32 before.
    """

    request: TargetRequest
    target: Target
    options: BuildOptions
    quantize: str = QuantizeStatic.name
    weights: str = QuantizeWeights.name
    is_auto: bool = False

    @property
    def label(self) -> str:
        """The artifact's folder under its target's: "fp32", "sm89-int8", "auto"."""
        if self.is_auto:
            asked = replace(self.options, precision=cast("Precision", AUTO), settings=self.request.settings)
            return self.target.label(asked)
        return self.target.label(self.options)

    @property
    def title(self) -> str:
        """How reports call it: "openvino int8"."""
        return f"{self.target.name} {self.label}"

    @property
    def folder(self) -> str:
        return f"{self.target.name}/{self.label}"

    def with_dims(self, dims: Mapping[str, DimRange]) -> Job:
        return replace(self, options=replace(self.options, dims=dims))

    def precision_pipeline(self) -> Pipeline:
        """Return the passes that put the precision into the graph's types; none where the runtime is told instead."""
        precision = self.options.precision
        if precision not in self.target.capabilities(self.options).typed_precisions:
            return Pipeline()
        if precision in WEIGHT_ONLY:
            return Pipeline((replace(weight_pass(self.weights), bits=weight_pass(MAKINGS[precision].passes).bits),))
        return pipeline_from_text(self.quantize if precision == "int8" else MAKINGS[precision].passes)


def weight_pass(text: str) -> QuantizeWeights:
    """Return the pass that `text` spells. Raises UsageError for any other pass."""
    steps = pipeline_from_text(text).steps
    if len(steps) != 1 or not isinstance(steps[0], QuantizeWeights):
        raise UsageError(
            f"'{text}' is not the pass that makes weights integers.",
            hint=f"For example: {QuantizeWeights.name}{{group=32}}",
        )
    return steps[0]


def planned_jobs(recipe: Recipe) -> list[Job]:
    """Return a job for each target and precision of the recipe, in its order.

    Raises UsageError for an unknown target or setting, a precision that a target does not know, and two jobs that
    would write to one folder.
    """
    jobs: dict[str, Job] = {}
    for request in recipe.targets:
        target = get_target(request.name)
        for precision in recipe.precisions:
            options = BuildOptions(
                precision="fp32" if precision == AUTO else precision,
                settings=request.settings,
                threads=recipe.thread_count,
                time_limit_s=recipe.time_limit_s,
            )
            target.check(options)
            job = Job(request, target, options, recipe.quantize, recipe.weights, is_auto=precision == AUTO)
            if job.folder in jobs:
                raise UsageError(
                    f"The targets '{jobs[job.folder].request}' and '{request}' would both be written to {job.folder}.",
                    hint="Ask for each artifact once.",
                )
            jobs[job.folder] = job
    return list(jobs.values())


def user_gates(recipe: Recipe, precisions: Collection[str] | None = None) -> tuple[UserGate, ...]:
    """Return the recipe's gates. `precisions` are those of artifacts built before; None takes the recipe's.

    Raises UsageError for a gate that is malformed, or scoped to a target or precision that is not there.
    """
    targets = sorted({request.name for request in recipe.targets})
    return parse_gates(recipe.gates, targets=targets, precisions=precisions or recipe.precisions)
