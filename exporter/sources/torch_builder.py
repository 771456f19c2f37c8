"""What a user's builder function returned: the module, how to call it, and which dimensions it declares dynamic."""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.errors import UsageError

if TYPE_CHECKING:
    import torch

    from exporter.sources.base import Feeds

Dynamic = Mapping[str, Mapping[int, str]]
"""Input name -> axis -> the dimension's name."""

_RETURNS = "Return a torch.nn.Module, or (module, sample inputs), or (module, sample inputs, dynamic shapes)."
_INPUTS = "Sample inputs are a tensor, a tuple in the order of forward's parameters, or a dict by their names."
_SHAPES = 'Write dynamic shapes as {"input_ids": {0: "batch", 1: "sequence"}}.'


@dataclass(frozen=True, slots=True)
class InputName:
    """A place in forward's call that takes the input of this name; other places hold constants."""

    name: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of forward: the tensors by input name, and where each goes. Constants (flags, None) stay in the call."""

    tensors: Mapping[str, torch.Tensor]
    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def call(self, tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return args and kwargs with `tensors` in their places."""

        def filled(value: Any) -> Any:
            return tensors[value.name] if isinstance(value, InputName) else value

        return tuple(map(filled, self.positional)), {name: filled(value) for name, value in self.keywords.items()}


@dataclass(frozen=True, slots=True)
class Built:
    """The module in evaluation mode. `sample` and `dynamic` are None where the builder left them out."""

    module: torch.nn.Module
    sample: Sample | None
    dynamic: Any


def built_from(returned: Any, *, location: str) -> Built:
    """Return what the builder's result holds. Raises UsageError when it is none of the documented forms."""
    import torch

    parts = returned if isinstance(returned, tuple) else (returned,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], torch.nn.Module):
        kinds = ", ".join(type(part).__name__ for part in parts[:4])
        raise UsageError(f"{location} returned ({kinds}), which is no torch module.", hint=_RETURNS)
    module = parts[0].eval()
    sample = None
    if len(parts) > 1 and parts[1] is not None:
        sample = _sample(module, parts[1], location=location)
    return Built(module, sample, parts[2] if len(parts) > 2 else None)


def sample_from(built: Built, feeds: Feeds, *, location: str) -> Sample:
    """Return the call of forward that sample arrays make, by name. Raises UsageError for names that it doesn't take."""
    from exporter.sources.torch_arrays import tensor_from_array

    device = device_of(built.module)
    return _sample(built.module, {name: tensor_from_array(v, device) for name, v in feeds.items()}, location=location)


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where the module's weights are; the CPU when it has none."""
    import torch

    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def declared_dims(dynamic: Any, sample: Sample, *, location: str) -> Dynamic:
    """Return the declared dynamic dimensions. Raises UsageError for unknown inputs, axes, and forms."""
    names = list(sample.tensors)
    if isinstance(dynamic, Sequence) and not isinstance(dynamic, str):
        if len(dynamic) != len(names):
            raise UsageError(
                f"{location} declares dynamic shapes for {len(dynamic)} inputs of {len(names)}.", hint=_SHAPES
            )
        dynamic = dict(zip(names, dynamic, strict=True))
    if not isinstance(dynamic, Mapping):
        raise UsageError(f"{location} returned a {type(dynamic).__name__} as its dynamic shapes.", hint=_SHAPES)
    declared: dict[str, dict[int, str]] = {}
    for name, axes in dynamic.items():
        if name not in sample.tensors:
            near = difflib.get_close_matches(str(name), names, n=1) or names
            raise UsageError(
                f"{location} declares dynamic shapes for '{name}', which is no input.",
                hint=f"The inputs are named as forward's parameters: {', '.join(near)}.",
            )
        rank = sample.tensors[name].ndim
        pairs = axes.items() if isinstance(axes, Mapping) else enumerate(axes or ())
        for axis, dim in pairs:
            if not isinstance(axis, int) or not -rank <= axis < rank:
                raise UsageError(
                    f"{location} declares axis {axis!r} of '{name}' dynamic; it has {rank} axes.", hint=_SHAPES
                )
            symbol = _dim_name(dim, str(name), axis % rank)
            if symbol is not None:
                declared.setdefault(str(name), {})[axis % rank] = symbol
    return declared


def _dim_name(dim: Any, name: str, axis: int) -> str | None:
    """Return the name that a declared dimension has: a string, torch's Dim, or a hint such as Dim.AUTO."""
    if dim is None or isinstance(dim, int):
        return None
    if isinstance(dim, str):
        return dim
    if type(dim).__name__ == "_DimHint":
        return None if "STATIC" in str(dim) else f"{name}_{axis}"
    return str(getattr(dim, "__name__", None) or f"{name}_{axis}")


def _sample(module: torch.nn.Module, given: Any, *, location: str) -> Sample:
    import torch

    parameters = inspect.signature(module.forward).parameters
    if isinstance(given, torch.Tensor):
        given = (given,)
    if isinstance(given, Mapping):
        _check_names(given, parameters, location)
        return _split((), dict(given), location)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UsageError(f"{location} returned a {type(given).__name__} as its sample inputs.", hint=_INPUTS)
    names = _positional_names(parameters, len(given))
    if len(names) < len(given):
        raise UsageError(
            f"{location} returned {len(given)} sample inputs; forward takes {len(names)}: {', '.join(names)}.",
            hint=_INPUTS,
        )
    return _split(tuple(zip(names, given, strict=True)), {}, location)


def _positional_names(parameters: Mapping[str, inspect.Parameter], count: int) -> list[str]:
    names: list[str] = []
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return [*names, *(f"{name}_{index}" for index in range(count - len(names)))]
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    return names[:count]


def _check_names(given: Mapping[Any, Any], parameters: Mapping[str, inspect.Parameter], location: str) -> None:
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [name for name, each in parameters.items() if each.kind in kinds]
    unknown = [str(name) for name in given if name not in names]
    if unknown and not takes_any:
        near = difflib.get_close_matches(unknown[0], names, n=3) or names
        raise UsageError(f"{location}: forward has no parameter '{unknown[0]}'.", hint=f"It takes: {', '.join(near)}.")


def _split(positional: tuple[tuple[str, Any], ...], keywords: dict[str, Any], location: str) -> Sample:
    """Return the call with tensors taken out of it, by name."""
    import torch

    tensors: dict[str, torch.Tensor] = {}

    def place(name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach()
            return InputName(name)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise UsageError(
            f"{location}: the sample input '{name}' is a {type(value).__name__}.",
            hint="Inputs are tensors: wrap a module that takes lists or dicts of them in one that takes them singly.",
        )

    args = tuple(place(name, value) for name, value in positional)
    kwargs = {name: place(name, value) for name, value in keywords.items()}
    if not tensors:
        raise UsageError(f"{location} returned sample inputs without a tensor.", hint=_INPUTS)
    return Sample(tensors, args, kwargs)
