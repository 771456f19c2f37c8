"""Checking a pipeline by running the graph before and after each pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from passes.comparison import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, difference, worst_difference
from passes.errors import BadModel, PassBroken
from passes.execution import outcomes
from passes.observers import Observer, replay_hint
from passes.sample_inputs import CHECK_SIZES, generated_inputs

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.base import Pass, PassResult

LOSSY: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "convert-fp16": (1e-2, 1e-3),
        "convert-bf16": (5e-2, 1e-2),
        "quantize-dynamic": (5e-2, 2e-2),
        "quantize-fp8": (5e-2, 2e-2),
        "quantize-static": (5e-2, 2e-2),
        "quantize-weights": (1e-2, 1e-3),
    }
)
"""Passes that are meant to move results, with the tolerances (relative, absolute) of the passes after them."""


@dataclass(frozen=True, slots=True)
class CheckedInput:
    """A generated input: what the graph uses it for, and its shape in each set."""

    name: str
    dtype: str
    role: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PassCheck:
    """One pass's comparison. `worst` is the greatest |after - before| / max(1, greatest |before|) over all outputs.

    note: "" or why a set was not compared, or that the pass is meant to move results.
    """

    name: str
    rewrites: int
    worst: float
    output: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check compared, and with which tolerance; `passes` has the passes that changed the graph, in order.

    not_run: for each set of inputs that the graph did not take before any pass, why. invalid: what the ONNX checker
    found wrong before any pass, so that it could not judge the passes; empty when nothing.
    """

    inputs: tuple[CheckedInput, ...]
    sets: int
    relative: float
    absolute: float
    passes: tuple[PassCheck, ...]
    not_run: tuple[str, ...] = ()
    seconds: float = 0.0
    invalid: str = ""


@dataclass
class CheckNumerics(Observer):
    """Run the graph before and after each pass that changed it, and raise PassBroken where an output moved.

    The runs use ONNX Runtime on the CPU with its own optimizations off, on generated inputs of several sizes (see
    `generated_inputs`), or on `feeds`. `replay` is the text of the whole pipeline, for the message. After a pass of
    `lossy` the graph must run, and later passes are compared with what it gives then, within its tolerance. Sets of
    inputs that the graph does not take before any pass are compared from the pass on after which it takes them.
    """

    replay: str = ""
    feeds: tuple[Mapping[str, np.ndarray], ...] | None = None
    lossy: Mapping[str, tuple[float, float]] = field(default_factory=lambda: LOSSY)
    relative: float = RELATIVE_TOLERANCE
    absolute: float = ABSOLUTE_TOLERANCE
    _inputs: tuple[CheckedInput, ...] = ()
    _expected: list[dict[str, np.ndarray] | None] | None = field(default=None, repr=False)
    _passes: list[PassCheck] = field(default_factory=list, repr=False)
    _not_run: list[str] = field(default_factory=list, repr=False)
    _applied: int = field(default=0, repr=False)
    _seconds: float = field(default=0.0, repr=False)

    def report(self) -> CheckReport:
        """Return what has been compared so far."""
        return CheckReport(
            inputs=self._inputs,
            sets=len(self.feeds or ()),
            relative=self.relative,
            absolute=self.absolute,
            passes=tuple(self._passes),
            not_run=tuple(self._not_run),
            seconds=self._seconds,
        )

    def before(self, step: Pass, model: ir.Model) -> None:
        if self._expected is not None:
            return
        started = time.perf_counter()
        if self.feeds is None:
            self.feeds = generated_inputs(model, sizes=CHECK_SIZES)
        self._inputs = checked_inputs(model, self.feeds)
        self._expected = []
        for index, outcome in enumerate(repeatable_outcomes(model, self.feeds)):
            if isinstance(outcome, Exception):
                self._not_run.append(f"inputs {index} ({sizes_text(self.feeds[index])}): {_first_line(outcome)}")
            self._expected.append(None if isinstance(outcome, Exception) else outcome)
        if not any(outputs is not None for outputs in self._expected):
            raise BadModel(
                f"The graph does not run before any pass, so no pass can be checked: {self._not_run[0]}",
                hint="Checking needs operators that ONNX Runtime has, and a graph that takes generated inputs.",
            )
        self._seconds += time.perf_counter() - started

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        if not result.applied:
            return
        assert self._expected is not None
        assert self.feeds is not None
        started = time.perf_counter()
        self._applied += len(result.applied)
        hint = replay_hint(self.replay, self._applied)
        worst, output, notes = 0.0, "", []
        is_lossy = step.name in self.lossy
        judged = 0
        doubted: list[tuple[int, str]] = []
        for index, actual in enumerate(outcomes(model, self.feeds)):
            old = self._expected[index]
            where = f"inputs {index}, {sizes_text(self.feeds[index])}"
            if isinstance(actual, Exception):
                if old is not None:
                    raise PassBroken(
                        f"The graph does not run after the pass '{step}' ({where}): {actual}", hint=hint
                    ) from actual
                continue
            if old is None:
                notes.append(f"runs now with {where}; it did not before")
            elif not is_lossy:
                problem = difference(old, actual, relative=self.relative, absolute=self.absolute)
                if problem and not is_ill_conditioned(model, self.feeds[index], old, actual):
                    raise PassBroken(f"The pass '{step}' changed the result ({where}): {problem}", hint=hint)
                judged += not problem
                if problem:
                    doubted.append((index, f"The pass '{step}' changed the result ({where}): {problem}"))
                    notes.append(f"not judged with {where}: an input moved by a millionth moves the outputs as far")
            if old is not None and (not doubted or doubted[-1][0] != index):
                moved, name = worst_difference(old, actual)
                if moved > worst or not output:
                    worst, output = moved, name
            self._expected[index] = actual
        if doubted and not judged:  # then no set speaks for the pass
            raise PassBroken(doubted[0][1], hint=hint)
        if is_lossy:
            self.relative, self.absolute = self.lossy[step.name]
            notes.append("meant to move results: later passes are compared with what it gives")
        self._passes.append(PassCheck(str(step), len(result.applied), worst, output, "; ".join(notes)))
        self._seconds += time.perf_counter() - started


def repeatable_outcomes(
    model: ir.Model, feeds: tuple[Mapping[str, np.ndarray], ...]
) -> tuple[dict[str, np.ndarray] | Exception, ...]:
    """Return the `outcomes`; raises BadModel where a second run of the same session gives something else."""
    found = outcomes(model, feeds + feeds)
    first, again = found[: len(feeds)], found[len(feeds) :]
    for index, (old, new) in enumerate(zip(first, again, strict=True)):
        if isinstance(old, Exception):
            continue
        if isinstance(new, Exception):
            problem = f"one raises: {_first_line(new)}"
        else:
            problem = difference(old, new, relative=RELATIVE_TOLERANCE, absolute=ABSOLUTE_TOLERANCE)
        if problem:
            raise BadModel(
                "The graph is not deterministic: before any pass, two runs on the same inputs differ "
                f"(inputs {index}, {sizes_text(feeds[index])}): {problem}",
                hint="Export it for inference, without random operators or Dropout in training mode, to check passes.",
            )
    return first


def is_ill_conditioned(
    model: ir.Model, feed: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> bool:
    """Return whether the graph amplifies rounding as far as `new` lies from `old`, in every output that moved.

    That is so where an output moves by a quarter of that distance or more when the inputs move by a millionth. A shape,
    a type, an integer or a place where the output is not finite is no matter of rounding.
    """
    nudged = {
        name: array * array.dtype.type(1 + 1e-6) if array.dtype.kind == "f" else array for name, array in feed.items()
    }
    (moved,) = outcomes(model, (nudged,))
    if isinstance(moved, Exception) or not old.keys() == new.keys() == moved.keys():
        return False
    return all(_is_rounding(old[name], new[name], moved[name]) for name in old)


def _is_rounding(old: np.ndarray, new: np.ndarray, moved: np.ndarray) -> bool:
    import numpy as np

    if not old.shape == new.shape == moved.shape or old.dtype != new.dtype:
        return False
    if old.dtype.kind != "f":
        return np.array_equal(old, new)
    finite = np.isfinite(old)
    if not np.array_equal(finite, np.isfinite(new)) or not np.array_equal(old[~finite], new[~finite], equal_nan=True):
        return False
    distance = worst_difference({"": old}, {"": new})[0]
    return distance <= 4 * worst_difference({"": new}, {"": moved})[0]


def checked_inputs(model: ir.Model, feeds: tuple[Mapping[str, np.ndarray], ...]) -> tuple[CheckedInput, ...]:
    """Return each input with the role that its use gives it and its shapes in `feeds`."""
    from passes.input_roles import input_roles

    roles = input_roles(model)
    found = []
    for name in feeds[0] if feeds else ():
        role = roles.get(name)
        kind = "value" if role is None else str(role.kind)
        if role is not None and role.high is not None:
            kind += f" up to {role.high}"
        shapes = tuple(tuple(int(size) for size in feed[name].shape) for feed in feeds)
        found.append(CheckedInput(name, str(feeds[0][name].dtype), kind, shapes))
    return tuple(found)


def sizes_text(feed: Mapping[str, np.ndarray]) -> str:
    """Return the shapes of a set of inputs: `ids [2,5], mask [2,5]`."""
    shown = [f"{name} [{','.join(map(str, array.shape))}]" for name, array in feed.items()]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
