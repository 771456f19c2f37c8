"""Model files: safe loading with weights memory-mapped, and saving with weights as one aligned external file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from passes.errors import BadModel, UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

INLINE_LIMIT_BYTES = 1024
"""Tensors up to this size stay inside the .onnx file; larger ones go to the external data file."""

OPSET_MINIMUM = 9


def load_model(path: Path) -> ir.Model:
    """Return the model, its external weights memory-mapped and not read.

    Raises BadModel for a file that is missing, truncated or not ONNX, an opset below 9, and external data that is
    missing, too short, or lies outside the model's folder (a path-traversal attempt, onnx issue 3991).
    """
    import onnx_ir as ir

    if not path.is_file():
        raise BadModel(f"There is no model file {path}.", hint="Check the path; it is read relative to this folder.")
    try:
        model = ir.load(path)
    except Exception as error:
        raise BadModel(f"{path} is not a readable ONNX model: {error}", hint="Export or copy it again.") from error
    if not model.graph.outputs:
        raise BadModel(f"{path} has no outputs: it is truncated or not an ONNX model.", hint="Export or copy it again.")
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", OPSET_MINIMUM))
    if opset < OPSET_MINIMUM:
        raise BadModel(
            f"{path} uses opset {opset}; graphwright reads from {OPSET_MINIMUM} on.", hint="Export it again."
        )
    _check_external_data(model, path)
    return model


def _check_external_data(model: ir.Model, path: Path) -> None:
    import onnx_ir as ir

    root = path.parent.resolve()
    sizes: dict[str, int] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            location = str(tensor.location)
            if location not in sizes:
                sizes[location] = _external_size(root, location, path)
            end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
            if end > sizes[location]:
                raise BadModel(
                    f"{path}: the weight '{value.name}' ends at byte {end} of '{location}', "
                    f"which has {sizes[location]} bytes.",
                    hint="The external data file is truncated: copy it again.",
                )


def _external_size(root: Path, location: str, path: Path) -> int:
    file = (root / location).resolve()
    if Path(location).is_absolute() or not file.is_relative_to(root):
        raise BadModel(
            f"{path} names external data outside its folder: '{location}'.",
            hint="Put the data file next to the model and name it without '..'; such a path may be an attack.",
        )
    if not file.is_file():
        raise BadModel(f"{path} needs the external data file '{location}', which is missing.", hint="Copy it too.")
    return file.stat().st_size


def save_model(model: ir.Model, path: Path) -> None:
    """Write `path`, and `path`.data next to it when there are weights over `INLINE_LIMIT_BYTES`.

    The model in memory is left as it was. Raises UsageError when the disk is full or the folder not writable; what was
    written by then is removed.
    """
    import onnx_ir as ir

    data = path.name + ".data"
    try:
        ir.save(model, path, external_data=data, size_threshold_bytes=INLINE_LIMIT_BYTES)
    except OSError as error:
        for leftover in (path, path.parent / data):
            leftover.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written: {error}", hint="Free disk space or choose another folder."
        ) from error
