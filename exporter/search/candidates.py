"""What a search chooses from: whole graphs in one precision, and int8 with some operators kept out of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from passes.parse import pipeline_from_text
from passes.quantize.static import QuantizeStatic
from targets.base import Precision

if TYPE_CHECKING:
    from exporter.jobs import Job

_HALVES: tuple[Precision, ...] = ("bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to build the model.

    precision: of the graph; rest: what its float operators compute in where the runtime is told so, "" as they are.
    keep: operators that stay out of int8, by name.
    """

    precision: Precision
    rest: str = ""
    keep: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        return not self.keep

    @property
    def title(self) -> str:
        """How reports call it: "int8 with 3 kept in bf16"."""
        if not self.keep:
            return f"{self.precision} and {self.rest}" if self.rest else self.precision
        return f"{self.precision} with {len(self.keep)} kept in {self.rest or 'fp32'}"

    @property
    def key(self) -> str:
        """A short name for files."""
        text = "\n".join((self.precision, self.rest, *sorted(self.keep)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Space:
    """All candidates of a target.

    plain: without kept operators, the most exact first. rests: what int8's float operators may compute in.
    """

    plain: tuple[Candidate, ...]
    rests: tuple[str, ...]


def space_of(job: Job) -> Space:
    """Return what the target of `job` offers on this machine, within the settings that the user fixed."""
    capabilities = job.target.capabilities(job.options)
    known = [precision for precision in ("fp32", *_HALVES) if precision in capabilities.precisions]
    plain = [Candidate(precision) for precision in get_args(Precision) if precision in known]
    rests: list[str] = []
    if "int8" in capabilities.precisions and capabilities.quantization.operators:
        rests = [""] + [
            rest
            for rest, settings in capabilities.rest_settings.items()
            if not settings.keys() & job.request.settings.keys()
        ]
        plain += [Candidate("int8", rest) for rest in rests]
    return Space(tuple(plain), tuple(rests))


def job_of(candidate: Candidate, job: Job) -> Job:
    """Return the job that builds `candidate` for the target and settings of `job`."""
    settings = dict(job.request.settings)
    if candidate.rest:
        settings |= job.target.capabilities(job.options).rest_settings[candidate.rest]
    step = pipeline_from_text(job.quantize).steps[0]
    assert isinstance(step, QuantizeStatic)
    kept = replace(step, keep=tuple(dict.fromkeys((*step.keep, *candidate.keep))))
    options = replace(job.options, precision=candidate.precision, settings=settings)
    return replace(job, options=options, quantize=str(kept))
