"""Torch's exporters: torch.export with the dynamo ONNX exporter, and TorchScript."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.sources.torch_strategies import Subject

SCRIPT_OPSET = 17
"""What the TorchScript exporter is asked for: LayerNormalization, and nothing that it only half knows."""

_RANGE = re.compile(r"(?P<name>\w+) = Dim\('\w+'(?:, min=(?P<least>\d+))?(?:, max=(?P<most>\d+))?\)")
"""A range that torch suggests for a dimension."""


def _exported(subject: Subject, *, key: str, strict: bool, declare: bool) -> Any:
    """Return torch's exported program; kept, so that a second opset need not export again."""
    import torch

    def exported(shapes: Any) -> Any:
        return torch.export.export(
            subject.flat,
            subject.tensors,
            dynamic_shapes=shapes,
            strict=strict,
            prefer_deferred_runtime_asserts_over_guards=True,
        )

    if key not in subject.programs:
        symbols = {dim: torch.export.Dim(f"dim{index}") for index, dim in enumerate(subject.dims.sizes)}
        shapes = tuple(
            {axis: symbols[dim] if declare else torch.export.Dim.AUTO for axis, dim in axes.items()}
            for axes in (subject.dims.dynamic.get(name, {}) for name in subject.dims.sample.tensors)
        )
        if not subject.dims.sizes:
            subject.programs[key] = exported(None)
        else:
            try:
                subject.programs[key] = exported({"tensors": shapes})
            except torch._dynamo.exc.UserError as error:
                if not declare:
                    raise
                subject.programs[key] = exported({"tensors": _narrowed(shapes, error)})
    return subject.programs[key]


def _narrowed(shapes: Any, error: Exception) -> Any:
    """Return the shapes with the ranges that torch asks for, as where positions end at 512; raises `error` otherwise.

    A dimension that torch would fix at one size is no longer dynamic: that is a failure, never a silent narrowing.
    """
    import torch

    fixes = str(error).partition("Suggested fixes:")[2].strip().partition("\n\n")[0].splitlines()
    ranges = [_RANGE.fullmatch(fix.strip()) for fix in fixes]
    if not ranges or None in ranges:
        raise error
    narrowed = {
        match["name"]: torch.export.Dim(match["name"], min=int(match["least"] or 0), max=int(match["most"] or 2**31))
        for match in ranges
        if match is not None
    }
    return tuple({axis: narrowed.get(dim.__name__, dim) for axis, dim in axes.items()} for axes in shapes)


def traced_by_dynamo(subject: Subject, *, key: str, strict: bool, declare: bool, opset: int) -> tuple[ir.Model, bool]:
    """Return the raw graph, and whether torch proved its symbols: it did where it was told of them (`declare`)."""
    import torch

    program = torch.onnx.export(
        _exported(subject, key=key, strict=strict, declare=declare),
        dynamo=True,
        opset_version=opset,
        input_names=[spec.name for spec in subject.dims.inputs],
        output_names=[spec.name for spec in subject.outputs],
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: ir.Model = program.model
    return model, declare


def _is_check(filename: str) -> bool:
    """Return whether a tracer warning comes from torch's own checks of an RNN's sizes, which decide nothing."""
    return Path(filename).parts[-4:] == ("torch", "nn", "modules", "rnn.py")


def traced_by_script(subject: Subject) -> tuple[ir.Model, bool]:
    """Return the raw graph; its sizes are not proved. Raises ValueError when the tracer baked a value into it."""
    import onnx_ir as ir
    import torch

    folder = subject.work / "script"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "traced.onnx"
    dynamic: dict[str, Mapping[int, str]] = {name: dict(axes) for name, axes in subject.dims.dynamic.items()}
    for spec in subject.outputs:
        axes = {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        dynamic |= {spec.name: axes} if axes else {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        torch.onnx.export(
            subject.flat,
            subject.tensors,
            str(file),
            dynamo=False,
            opset_version=SCRIPT_OPSET,
            input_names=[spec.name for spec in subject.dims.inputs],
            output_names=[spec.name for spec in subject.outputs],
            dynamic_axes=dynamic,
            do_constant_folding=True,
            verbose=False,
        )
    baked = [
        each for each in warned if issubclass(each.category, torch.jit.TracerWarning) and not _is_check(each.filename)
    ]
    if baked:
        said = str(baked[0].message).split(". ")[0]
        raise ValueError(f"the trace would hold for this sample alone: {said} ({Path(baked[0].filename).name})")
    return ir.load(file), False
