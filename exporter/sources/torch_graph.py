"""A traced graph made ours: declared names and dimensions, no sizes that can't be relied on, no machine paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from exporter.sources.torch_quiet import source_line

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.sources.torch_strategies import Subject

SOURCE_LINE = "graphwright.source_line"
"""Metadata key of a node: the user's line that it came from, "model.py:12"."""

MODULE_PATH = "graphwright.module"
"""Metadata key of a node: the torch module that it came from, "encoder.layer.0.attention"."""

PREFIX = "module."
"""What flattening puts before the names of weights."""


def finished_graph(model: ir.Model, subject: Subject, *, reliable: bool) -> ir.Model:
    """Return `model` itself, edited. `reliable` says that every size in it was proved for all sizes of the inputs.

    Where it wasn't, a size that a dynamic dimension had while tracing may be that dimension in truth: it becomes
    unknown, and shape inference fills in what follows from the rest. Raises ValueError when inputs or outputs are not
    those of the module.
    """
    _check_names("inputs", [v.name for v in model.graph.inputs], [spec.name for spec in subject.dims.inputs])
    _check_names("outputs", [v.name for v in model.graph.outputs], [spec.name for spec in subject.outputs])
    _clean(model)
    _rename_weights(model)
    _name_dimensions(model, subject)
    if not reliable:
        _forget_sizes(model, frozenset(subject.runs[0][0].values()))
    _declare(model, subject)
    return _inferred(model, subject) if not reliable else model


def _check_names(what: str, got: list[str | None], wanted: list[str]) -> None:
    if got != wanted:
        raise ValueError(f"the traced graph's {what} are {got}, the module's {wanted}")


def _clean(model: ir.Model) -> None:
    """Keep the user's line and module of each node, drop all other notes: they hold machine paths and noise."""
    model.metadata_props.clear()
    model.doc_string = None
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph:
            kept = {}
            line = source_line(node.metadata_props.get("pkg.torch.onnx.stack_trace", ""))
            if line:
                kept[SOURCE_LINE] = line
            path = _module_path(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
            if path:
                kept[MODULE_PATH] = path
            node.metadata_props.clear()
            node.metadata_props.update(kept)
            node.doc_string = None
    for value in _values(model):
        value.metadata_props.clear()
        value.doc_string = None


def _module_path(scopes: str) -> str:
    """Return the module's path from the exporter's list of scopes, whose last entry is the operation itself."""
    try:
        listed = ast.literal_eval(scopes) if scopes else []
    except (ValueError, SyntaxError):
        return ""
    path = str(listed[-2]) if len(listed) > 1 else ""
    return path.removeprefix(PREFIX) if path.startswith(PREFIX) else ""


def _rename_weights(model: ir.Model) -> None:
    graph = model.graph
    taken = {value.name for value in _values(model)}
    for name in list(graph.initializers):
        plain = name.removeprefix(PREFIX)
        if plain != name and plain not in taken:
            graph.initializers[name].name = plain
            taken.add(plain)


def _name_dimensions(model: ir.Model, subject: Subject) -> None:
    """Replace the exporter's symbols by the declared names, in expressions too."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        axes = subject.dims.dynamic.get(str(value.name), {})
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value and axis in axes:
                names.setdefault(dim.value, axes[axis])
    for value in _values(model):
        if value.shape is not None and any(isinstance(dim, ir.SymbolicDim) for dim in value.shape):
            value.shape = ir.Shape([dim if isinstance(dim, int) else _renamed(dim.value, names) for dim in value.shape])


def _renamed(symbol: str | None, names: Mapping[str, str]) -> str | None:
    if symbol is None:
        return None
    return re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match.group(), match.group()), symbol)


def _forget_sizes(model: ir.Model, sizes: frozenset[int]) -> None:
    import onnx_ir as ir

    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                if value.shape is not None:
                    value.shape = ir.Shape(
                        [None if isinstance(dim, int) and dim in sizes else _as_item(dim) for dim in value.shape]
                    )


def _as_item(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _declare(model: ir.Model, subject: Subject) -> None:
    """Set the shapes of inputs and outputs: the declared ones, and those that torch eager showed."""
    import onnx_ir as ir

    for value, spec in zip(model.graph.inputs, subject.dims.inputs, strict=True):
        value.shape = ir.Shape(spec.shape)
    for value, spec in zip(model.graph.outputs, subject.outputs, strict=True):
        traced = value.shape
        if traced is not None and len(traced) == len(spec.shape):
            value.shape = ir.Shape(
                [_as_item(old) if new is None else new for old, new in zip(traced, spec.shape, strict=True)]
            )
        else:
            value.shape = ir.Shape(spec.shape)


def _inferred(model: ir.Model, subject: Subject) -> ir.Model:
    from onnx_ir.passes.common import ShapeInferencePass

    inferred: ir.Model = ShapeInferencePass()(model).model
    _declare(inferred, subject)
    return inferred


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
