"""Checking a pipeline by running the graph before and after each pass."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from passes.errors import BadModel, MissingDependency, PassBroken
from passes.execution import open_session, run_model, run_session
from passes.observers import Observer, replay_hint
from passes.sample_inputs import CHECK_SIZES, generated_inputs

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.base import Pass, PassResult

__all__ = ["CheckNumerics", "CheckReport", "difference", "run_model"]

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5
"""How far an fp32 output may move: rewrites reorder sums, which costs a few units in the last place per layer."""

LOSSY: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"convert-fp16": (1e-2, 1e-3), "convert-bf16": (5e-2, 1e-2), "quantize-static": (5e-2, 2e-2)}
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


def outcomes(
    model: ir.Model, feeds: tuple[Mapping[str, np.ndarray], ...]
) -> tuple[dict[str, np.ndarray] | Exception, ...]:
    """Return for each set of inputs the outputs, or the exception that the run raised.

    The elements of a sequence are outputs of their own, `name[0]` and so on; an optional that is empty is none.
    """
    found: list[dict[str, np.ndarray] | Exception] = []
    with tempfile.TemporaryDirectory(prefix="graphwright-check-") as folder:
        try:
            session = open_session(model, Path(folder))
        except MissingDependency:
            raise
        except Exception as error:
            return tuple(error for _ in feeds)
        for feed in feeds:
            try:
                outputs = run_session(session, feed).items()
                found.append({key: array for name, result in outputs for key, array in _arrays(name, result)})
            except Exception as error:
                found.append(error)
    return tuple(found)


def _arrays(name: str, result: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of an output: one of a tensor, each of a sequence or a map, none of an empty optional."""
    import numpy as np

    if isinstance(result, list | dict):
        for key, element in result.items() if isinstance(result, dict) else enumerate(result):
            yield from _arrays(f"{name}[{key}]", element)
    elif result is not None:
        yield name, np.asarray(result)


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
    """Return whether the graph amplifies rounding as far as `new` lies from `old`.

    That is so where its outputs move by a quarter of that distance or more when its inputs move by a millionth.
    """
    nudged = {
        name: array * array.dtype.type(1 + 1e-6) if array.dtype.kind == "f" else array for name, array in feed.items()
    }
    (moved,) = outcomes(model, (nudged,))
    if isinstance(moved, Exception) or moved.keys() != new.keys() or old.keys() != new.keys():
        return False
    if any(old[name].shape != new[name].shape or old[name].dtype != new[name].dtype for name in old):
        return False
    return 4 * worst_difference(new, moved)[0] >= worst_difference(old, new)[0]


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


def worst_difference(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the greatest move of an output, over its greatest magnitude where that is above 1; and its name."""
    import numpy as np

    worst, worst_name = 0.0, ""
    for name in expected.keys() & actual.keys():
        old, new = expected[name], actual[name]
        if old.dtype.kind in "OSU" or old.shape != new.shape or not old.size:
            continue
        first, second = old.astype(np.float64), new.astype(np.float64)
        finite = np.isfinite(first) & np.isfinite(second)
        if not finite.any():
            continue
        error = float(np.abs(first - second)[finite].max()) / max(1.0, float(np.abs(first[finite]).max()))
        if error > worst or not worst_name:
            worst, worst_name = error, name
    return worst, worst_name


def difference(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], *, relative: float, absolute: float
) -> str:
    """Return which output differs and by how much; empty when all agree. NaN agrees with NaN only.

    `absolute` is meant for numbers around 1: it grows with the output's greatest magnitude where that is larger, since
    a sum's rounding error follows its terms.
    """
    import numpy as np

    if set(expected) != set(actual):
        return f"outputs are {sorted(actual)}, not {sorted(expected)}"
    for name, old in expected.items():
        new = actual[name]
        if old.dtype != new.dtype or old.shape != new.shape:
            return f"output '{name}' is {new.dtype}{list(new.shape)}, not {old.dtype}{list(old.shape)}"
        if old.dtype.kind in "iubOSU":
            if not np.array_equal(old, new):
                return f"output '{name}' differs in {int((old != new).sum())} of {old.size} elements"
            continue
        first, second = old.astype(np.float64), new.astype(np.float64)
        finite = first[np.isfinite(first)]
        allowed = absolute * max(1.0, float(np.abs(finite).max()) if finite.size else 1.0)
        if not np.allclose(second, first, rtol=relative, atol=allowed, equal_nan=True):
            with np.errstate(invalid="ignore"):
                error = np.abs(first - second)
            worst = float(np.nanmax(error)) if np.isfinite(error).any() else float("nan")
            return (
                f"output '{name}' moved by up to {worst:.3g}, more than atol={allowed:g} + rtol={relative:g}, "
                f"or changed where it is finite"
            )
    return ""
