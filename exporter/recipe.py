"""The declared build: frozen values, read from TOML or from flags, checked once and never changed afterwards."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from passes.errors import UsageError
from targets.base import PRECISIONS, DimRange, Precision

if TYPE_CHECKING:
    from passes.quantize.range_methods import RangeMethod

Requested = Precision | Literal["auto"]

WAIVABLE = ("execution",)
"""Checks that may be waived beforehand: "execution" allows an artifact that has no device here to stay not run."""


@dataclass(frozen=True, slots=True)
class TargetRequest:
    """One target with its settings, as in `--target xla:topology=v5e:2x2`."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}:{settings}" if settings else self.name


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a build.

    samples, calibration: where held-out and calibration inputs come from; None takes the source's own example for
    `samples`, and is an error for `calibration` when int8 is asked for.
    pipeline: pass text; None takes the default pipeline.
    quantize: the pass that makes int8 graphs, with its options: "quantize-static{granularity=tensor}".
    weights: the pass of the weight-only precisions, with its options: "quantize-weights{group=32}"; the precision says
    how many bits.
    ranges: how calibration picks an activation's range: "mse" (least squared error), "minmax", "moving-average",
    "percentile", "entropy", or "auto" (for each value the one with the least error).
    calibration_cache: a file that keeps the ranges between builds; calibrated anew when the graph, samples or `ranges`
    change.
    gates: "name=value", optionally scoped "int8:name=value" or "openvino:name=value".
    waive: "execution", "execution:TARGET" or "execution:TARGET:key=value", the target as it was asked for.
    padding_mask: the input [B, S] whose zeros mark padding, where outputs [B, S, ...] are not compared.
    threads: CPU threads for the original and every artifact; None takes what this process may use.
    speed_seconds: time budget of the interleaved measurement at one input shape; 0 measures nothing.
    trials: candidates that a search for the precision "auto" builds and judges at most, for each target.
    search_cache: where searches keep what they found; None takes graphwright's folder in the user's cache.
    """

    source: str
    samples: str | None = None
    calibration: str | None = None
    targets: tuple[TargetRequest, ...] = (TargetRequest("onnxruntime"),)
    precisions: tuple[Requested, ...] = ("fp32",)
    pipeline: str | None = None
    quantize: str = "quantize-static"
    weights: str = "quantize-weights"
    ranges: RangeMethod = "mse"
    calibration_cache: str | None = None
    gates: tuple[str, ...] = ()
    waive: tuple[str, ...] = ()
    dims: Mapping[str, DimRange] = field(default_factory=dict)
    padding_mask: str | None = None
    threads: int | None = None
    speed_seconds: float = 10.0
    baselines: bool = True
    time_limit_s: float = 1800.0
    trials: int = 24
    search_cache: str | None = None

    @property
    def thread_count(self) -> int:
        """CPU threads that everything is run with."""
        return self.threads or len(os.sched_getaffinity(0))

    def is_waived(self, check: str, *names: str) -> bool:
        """Return whether the check is waived for all or for one of `names`: a target, or one with its settings."""
        return check in self.waive or any(f"{check}:{name}" in self.waive for name in names)


def target_from_text(text: str) -> TargetRequest:
    """Return the request that `name` or `name:key=value,key=value` spells; values may hold colons."""
    name, _, rest = text.partition(":")
    settings: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value.strip() or key.strip() in settings:
            raise UsageError(
                f"The target '{text}' is not of the form name:key=value,key=value.",
                hint="For example: --target openvino, --target xla:topology=v5e:2x2, --target tensorrt:sm=89",
            )
        settings[key.strip()] = value.strip()
    if not name.strip():
        raise UsageError(f"The target '{text}' has no name.", hint="For example: --target openvino")
    return TargetRequest(name.strip(), settings)


def dim_from_text(text: str) -> tuple[str, DimRange]:
    """Return the name and range that `batch=1..8`, `batch=1..4..8` (least, usual, greatest) or `batch=8` spells."""
    name, equals, sizes = text.partition("=")
    parts = sizes.split("..")
    if not equals or not name or not 1 <= len(parts) <= 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"The dimension '{text}' is not of the form name=least..usual..greatest.")
    values = [int(part) for part in parts]
    least, greatest = values[0], values[-1]
    usual = values[1] if len(values) == 3 else greatest
    if not 1 <= least <= usual <= greatest:
        raise UsageError(f"The dimension '{text}' must have 1 <= least <= usual <= greatest.")
    return name.strip(), DimRange(least, usual, greatest)


def precisions_from_texts(texts: Sequence[str]) -> tuple[Requested, ...]:
    """Return the precisions that texts such as "fp32,int8" name, each once, in order."""
    known: tuple[Requested, ...] = (*PRECISIONS, "auto")
    found: dict[Requested, None] = {}
    for text in ",".join(texts).split(","):
        name = text.strip()
        match = next((each for each in known if each == name), None)
        if match is None:
            raise UsageError(f"There is no precision '{name}'.", hint=f"Precisions: {', '.join(known)}")
        found[match] = None
    return tuple(found)


def recipe_from_toml(path: Path) -> Recipe:
    """Return the recipe in a TOML file; file names in it are relative to the recipe's folder.

    Raises UsageError for a missing or malformed file and for unknown keys, with near matches.
    """
    import tomllib

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no recipe {path}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read: {error}") from error
    _check_keys(path, data)
    values: dict[str, Any] = {}
    for key in ("source", "samples", "calibration", "calibration_cache", "search_cache"):
        if key in data:
            values[key] = relocated(_typed(path, data, key, str), path.parent)
    texts = ("pipeline", "quantize", "weights", "ranges", "padding_mask")
    for key, kind in (*((key, str) for key in texts), ("threads", int), ("trials", int), ("baselines", bool)):
        if key in data:
            values[key] = _typed(path, data, key, kind)
    for key in ("speed_seconds", "time_limit_s"):
        if key in data:
            values[key] = float(_typed(path, data, key, (int, float)))
    for key in ("gates", "waive"):
        if key in data:
            values[key] = _texts(path, data, key)
    if "precisions" in data:
        values["precisions"] = precisions_from_texts(_texts(path, data, "precisions"))
    if "dims" in data:
        table = _typed(path, data, "dims", dict)
        values["dims"] = dict(dim_from_text(f"{name}={sizes}") for name, sizes in table.items())
    if "targets" in data:
        values["targets"] = tuple(target_from_text(text) for text in _texts(path, data, "targets"))
    if "source" not in values:
        raise UsageError(f"The recipe {path} names no source.", hint='For example: source = "model.py:build"')
    return checked(Recipe(**values))


def checked(recipe: Recipe) -> Recipe:
    """Return the recipe if its values are sound. Raises UsageError for the first that is not."""
    from exporter.jobs import weight_pass
    from passes.parse import pipeline_from_text
    from passes.quantize.range_methods import RANGE_METHODS
    from passes.quantize.static import QuantizeStatic

    if not recipe.targets:
        raise UsageError("No target is asked for.", hint="For example: --target onnxruntime")
    if not recipe.precisions:
        raise UsageError("No precision is asked for.", hint=f"Precisions: {', '.join(PRECISIONS)}")
    available = len(os.sched_getaffinity(0))
    if recipe.threads is not None and not 1 <= recipe.threads <= available:
        raise UsageError(f"threads is {recipe.threads}; it must be 1 to {available}, the processors of this process.")
    if not (math.isfinite(recipe.speed_seconds) and recipe.speed_seconds >= 0):
        raise UsageError(f"speed_seconds is {recipe.speed_seconds}; it must be a number of at least 0.")
    if not (math.isfinite(recipe.time_limit_s) and recipe.time_limit_s > 0):
        raise UsageError(f"time_limit_s is {recipe.time_limit_s}; it must be a number above 0.")
    if recipe.trials < 1:
        raise UsageError(f"trials is {recipe.trials}; it must be at least 1.")
    if recipe.ranges not in RANGE_METHODS:
        raise UsageError(f"There is no range method '{recipe.ranges}'.", hint=f"Methods: {', '.join(RANGE_METHODS)}")
    steps = pipeline_from_text(recipe.quantize).steps
    if len(steps) != 1 or not isinstance(steps[0], QuantizeStatic):
        raise UsageError(
            f"'{recipe.quantize}' is not the pass that makes int8 graphs.",
            hint=f"For example: {QuantizeStatic.name}{{granularity=tensor}}",
        )
    weight_pass(recipe.weights)
    if "bits=" in recipe.weights:
        raise UsageError(
            f"'{recipe.weights}' says how many bits, and so does the precision.", hint="Leave bits= out of it."
        )
    asked = {name for request in recipe.targets for name in (request.name, str(request))}
    for text in recipe.waive:
        check, colon, target = text.partition(":")
        if check not in WAIVABLE:
            raise UsageError(f"'{text}' cannot be waived.", hint=f"What can be: {', '.join(WAIVABLE)}")
        if colon and target not in asked:
            raise UsageError(
                f"'{text}' waives a target that is not asked for.", hint=f"Targets: {', '.join(sorted(asked))}"
            )
    return recipe


def relocated(text: str, folder: Path) -> str:
    """Return `text` with a path in it (file.onnx, samples/, file.py:function) taken relative to `folder`."""
    path, colon, function = text.rpartition(":")
    if not colon:
        return str(folder / text)
    return f"{folder / path}:{function}" if path.endswith(".py") else text


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return the recipe with every override that is not None put in, checked again.

    Targets and precisions may be given as text, one or several: "openvino", ("onnxruntime", "xla:topology=v5e:2x2").
    """
    values: dict[str, Any] = {"targets": recipe.targets, "precisions": recipe.precisions}
    values |= {key: value for key, value in overrides.items() if value is not None}
    values["targets"] = tuple(
        target_from_text(each) if isinstance(each, str) else each for each in _listed(values["targets"])
    )
    values["precisions"] = precisions_from_texts(_listed(values["precisions"])) if values["precisions"] else ()
    for key in ("gates", "waive"):
        if key in values:
            values[key] = tuple(_listed(values[key]))
    return checked(replace(recipe, **values))


def _listed(given: Any) -> Sequence[Any]:
    return (given,) if isinstance(given, (str, TargetRequest)) else tuple(given)


def _check_keys(path: Path, data: Mapping[str, Any]) -> None:
    known = [entry.name for entry in fields(Recipe)]
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"Keys: {', '.join(known)}"
            raise UsageError(f"The recipe {path} has an unknown key '{key}'.", hint=hint)


def _typed(path: Path, data: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = data[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = kind.__name__ if isinstance(kind, type) else " or ".join(each.__name__ for each in kind)
        raise UsageError(f"The recipe {path}: '{key}' must be {wanted}, not {type(value).__name__}.")
    return value


def _texts(path: Path, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = _typed(path, data, key, list)
    if not all(isinstance(value, str) for value in values):
        raise UsageError(f"The recipe {path}: '{key}' must be a list of strings.")
    return tuple(values)
