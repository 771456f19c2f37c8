"""The target contract: what a runtime folder offers to the rest of graphwright."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.capabilities import Capabilities
    from passes.errors import Blocker
    from passes.pipeline import Pipeline
    from targets.manifest import Manifest

    Array = npt.NDArray[np.generic]

Arithmetic = Literal["int8", "float", "conversion"]
"""What an operator computes in; a conversion goes from float to 8-bit integers or back."""

Precision = Literal["fp32", "fp16", "bf16", "int8-weight-only", "int8", "int8-dynamic", "fp8", "int4-weight-only"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Dim = int | str | None
"""One dimension of a shape: a size, a symbol's name, or unknown."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: `dtype` is numpy's name ("float32", "int64", "bfloat16")."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


@dataclass(frozen=True, slots=True)
class DimRange:
    """The sizes that a named dimension takes: least, usual and greatest; from the samples, or given by the user."""

    minimum: int
    usual: int
    maximum: int


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build one artifact.

    settings: the target's own options, as written after the colon of `--target name:key=value,...`.
    dims: what each symbolic dimension of the inputs ranges over; builders that need concrete shapes read it.
    threads: CPU threads that the artifact shall run with; recorded in the manifest.
    """

    precision: Precision = "fp32"
    settings: Mapping[str, str] = field(default_factory=dict)
    dims: Mapping[str, DimRange] = field(default_factory=dict)
    threads: int = 1
    time_limit_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a target can build and run on this machine. `reason` says why not, `fix` what to do about it."""

    can_build: bool
    can_run: bool
    reason: str = ""
    fix: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A built artifact on disk: its folder and what its manifest says."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """The share of an artifact's time, 0 to 1, that all operators of one type and arithmetic take."""

    operator: str
    arithmetic: Arithmetic
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where an artifact's time goes, the greatest share first. `arithmetic` says what the device has for int8."""

    operators: tuple[OperatorTime, ...]
    arithmetic: str = ""


def shares_of_time(times: Iterable[tuple[str, Arithmetic, float]]) -> tuple[OperatorTime, ...]:
    """Return the shares of operators' times, given as operator, arithmetic and time in any unit, summed up."""
    totals: defaultdict[tuple[str, Arithmetic], float] = defaultdict(float)
    for operator, arithmetic, time in times:
        totals[operator, arithmetic] += time
    whole = sum(totals.values())
    shares = [OperatorTime(*key, time / whole) for key, time in totals.items() if time > 0]
    return tuple(sorted(shares, key=lambda each: (-each.share, each.operator, each.arithmetic)))


class Runner(Protocol):
    """A model that runs: numpy in, numpy out, by name. `threads` is what it was opened with."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name. Raises UsageError for a missing, unknown or misshapen input."""
        ...


@runtime_checkable
class Target(Protocol):
    """A runtime. Stateless; its heavy package is imported inside the methods."""

    name: str
    summary: str
    """One line for `doctor` and the help."""

    def probe(self) -> Readiness:
        """Return what this machine can do; never raises."""
        ...

    def check(self, options: BuildOptions) -> None:
        """Raise UsageError for a setting or precision that the target does not know, with the ones it does."""
        ...

    def label(self, options: BuildOptions) -> str:
        """Return the artifact's folder name under the target's: "fp32", "sm89-int8", "v5e-2x2-fp32"."""
        ...

    def capabilities(self, options: BuildOptions) -> Capabilities:
        """Return the runtime's limits for these options, as plain data."""
        ...

    def pipeline(self, options: BuildOptions) -> Pipeline:
        """Return the legalisation: what to rewrite so that the runtime takes the graph and runs it fast."""
        ...

    def blockers(self, model: ir.Model, options: BuildOptions) -> tuple[Blocker, ...]:
        """Return every reason why the legalised graph can't be built, all at once."""
        ...

    def build(self, model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
        """Write the artifact of the legalised `model` into the existing, empty folder `out`, its manifest included.

        Raises BuildFailed when the runtime's builder refuses, crashes or runs too long; MissingDependency without it.
        """
        ...

    def open(self, artifact: Artifact, *, threads: int = 1) -> AbstractContextManager[Runner]:
        """Load the artifact for running here.

        Raises ArtifactRefused when it doesn't fit this runtime or device, CannotRun when this machine has no device
        for it, MissingDependency when the runtime is absent.
        """
        ...


@runtime_checkable
class ProfilingTarget(Protocol):
    """A target whose runtime can tell where an artifact's time goes; a Target need not be one."""

    def profile(self, artifact: Artifact, feeds: Mapping[str, Array], *, threads: int = 1) -> Profile:
        """Return where the time of the artifact goes on these inputs. Raises as `Target.open` does."""
        ...
