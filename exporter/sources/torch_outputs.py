"""A module's outputs as a flat list of named tensors, whatever structure forward returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from exporter.sources.torch_arrays import dtype_name
from passes.errors import UsageError
from targets.base import Dim, TensorSpec

if TYPE_CHECKING:
    import torch

    from exporter.sources.torch_builder import Sample
    from exporter.sources.torch_dims import Dims


def named_outputs(result: Any) -> list[tuple[str, Any]]:
    """Return the tensors in `result` with their names: keys, fields, "output", or "output_0", "output_1" ...

    None is left out. Raises UsageError for anything that is no tensor, and for two outputs of one name.
    """
    found = list(_walk(result, ""))
    names = [name for name, _ in found]
    if not found or len(set(names)) < len(names):
        raise UsageError(
            f"The module's outputs are named {', '.join(names) or '(none)'}.",
            hint="Return at least one tensor, and no two outputs of one name.",
        )
    return found


def _walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    import torch

    if value is None:
        return
    if isinstance(value, torch.Tensor):
        yield name or "output", value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{name}_{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        fields = getattr(value, "_fields", None)
        for index, item in enumerate(value):
            if fields is not None:
                yield from _walk(item, f"{name}_{fields[index]}" if name else fields[index])
            else:
                yield from _walk(item, f"{name or 'output'}_{index}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name), f"{name}_{field.name}" if name else field.name)
    else:
        raise UsageError(
            f"The module's output '{name or 'output'}' is a {type(value).__name__}, not a tensor.",
            hint="Return tensors (in dicts, tuples or dataclasses), or wrap the module in one that does."
            + (' Or put "use_cache": False among the sample inputs.' if type(value).__name__.endswith("Cache") else ""),
        )


def flat_module(module: torch.nn.Module, sample: Sample) -> torch.nn.Module:
    """Return a module that takes the sample's tensors in order and returns a tuple of the output tensors.

    Outputs that are one tensor twice, or an input itself, are copied: a graph names each output once.
    """
    import torch

    from exporter.sources.torch_builder import InputName

    order = {name: index for index, name in enumerate(sample.tensors)}
    positional = tuple((order[v.name], None) if isinstance(v, InputName) else (-1, v) for v in sample.positional)
    keywords = tuple(
        (key, order[v.name], None) if isinstance(v, InputName) else (key, -1, v) for key, v in sample.keywords.items()
    )

    class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is Any where it isn't followed
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            args = [tensors[index] if index >= 0 else constant for index, constant in positional]
            kwargs = {key: tensors[index] if index >= 0 else constant for key, index, constant in keywords}
            seen = list(tensors)
            outputs = []
            for _, tensor in named_outputs(self.module(*args, **kwargs)):
                outputs.append(tensor.clone() if any(tensor is other for other in seen) else tensor)
                seen.append(tensor)
            return tuple(outputs)

    return Flat().eval()


def run_eager(module: torch.nn.Module, sample: Sample, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the module's outputs by name; an output named as an input gets "_out" after it."""
    import torch

    args, kwargs = sample.call(tensors)
    with torch.inference_mode():
        outputs = named_outputs(module(*args, **kwargs))
    return {f"{name}_out" if name in sample.tensors else name: tensor for name, tensor in outputs}


def output_specs(
    dims: Dims, runs: list[tuple[Mapping[str, int], Mapping[str, torch.Tensor]]]
) -> tuple[TensorSpec, ...]:
    """Return the outputs' specs from eager runs at several sizes: (sizes by dimension, outputs).

    A dimension that never changes is fixed; one that always has the size of a named dimension takes its name; another
    is unknown. After a single run, nothing shows what would change, so a size that a dynamic dimension has is unknown.
    """
    names = list(runs[0][1])
    specs = []
    for name in names:
        seen = [tuple(int(size) for size in outputs[name].shape) for _, outputs in runs]
        dtype = dtype_name(runs[0][1][name])
        specs.append(TensorSpec(name, dtype, tuple(_dim(axis, seen, runs, dims) for axis in range(len(seen[0])))))
    return tuple(specs)


def _dim(
    axis: int,
    seen: list[tuple[int, ...]],
    runs: list[tuple[Mapping[str, int], Mapping[str, torch.Tensor]]],
    dims: Dims,
) -> Dim:
    sizes = [shape[axis] for shape in seen]
    changes = len(set(sizes)) > 1
    if not changes and (len(runs) > 1 or sizes[0] not in dims.sizes.values()):
        return sizes[0]
    if len(runs) == 1:
        return None
    named = [dim for dim in dims.sizes if all(run[dim] == size for (run, _), size in zip(runs, sizes, strict=True))]
    return named[0] if named else None
