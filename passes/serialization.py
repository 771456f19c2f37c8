"""Model files: safe loading with weights memory-mapped, and saving with weights as one aligned external file."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from passes.collection import paused
from passes.data_file import attach, copy_bytes, data_file_of, open_data_file, packed, read_elements
from passes.deferred_sympy import import_onnx_ir
from passes.errors import BadModel, UsageError
from passes.function_calls import circular_call

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

    from passes.data_file import DataFile

INLINE_LIMIT_BYTES = 1024
"""Tensors up to this size stay inside the .onnx file; larger ones go to the external data file."""

ALIGNMENT_BYTES = 4096
"""Each tensor in the external data file starts at a multiple of this, so that it can be memory-mapped."""

OPSET_MINIMUM = 9


def load_model(path: Path) -> ir.Model:
    """Return the model, its external weights memory-mapped and not read.

    Raises BadModel for a file that is missing, truncated or not ONNX, an opset below 9, and external data that is
    missing, too short, or lies outside the model's folder (a path-traversal attempt, onnx issue 3991).
    """
    import_onnx_ir()

    if not path.is_file():
        raise BadModel(f"There is no model file {path}.", hint="Check the path; it is read relative to this folder.")
    try:
        with paused():
            model = _load(path)
    except Exception as error:
        reason = _first_cause(error)
        raise BadModel(f"{path} is not a readable ONNX model: {reason}", hint="Export or copy it again.") from error
    _check_complete(model, path)
    _check_external_data(model, path)
    _sort(model, path)
    return model


def _first_cause(error: BaseException) -> BaseException:
    """Return what was raised first: onnx_ir wraps it in one error a level of the file, which say where alone."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _load(path: Path) -> ir.Model:
    import onnx
    import onnx_ir as ir

    from passes.inline_weights import without_inline_weights

    source = _behind(path)
    is_plain = source.name == path.name or not (path.parent / source.name).exists()  # else the name says two files
    content = without_inline_weights(source) if path.suffix == ".onnx" and is_plain else None
    if content is None:
        return ir.load(path)
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(content))
    return model


def _behind(path: Path) -> Path:
    """Return the file that holds the model: where `path` is a link, as in a download cache, the one it leads to."""
    return path.resolve() if path.is_symlink() else path


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    from passes.graph_model import subgraphs

    yield model.graph
    yield from list(subgraphs(model.graph))


def _sort(model: ir.Model, path: Path) -> None:
    """Put nodes after what they read, as the ONNX specification asks; some writers (and hand edits) do not."""
    try:
        for graph in _graphs(model):
            if not _is_sorted(graph):
                graph.sort()
    except ValueError as error:
        raise BadModel(f"{path} has a cycle: {error}", hint="Export it again.") from error


def _is_sorted(graph: ir.Graph) -> bool:
    seen: set[ir.Node] = set()
    for node in graph:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.graph is graph and producer not in seen:
                return False
        seen.add(node)
    return True


def _check_complete(model: ir.Model, path: Path) -> None:
    again = "Export or copy it again."
    if not model.graph.outputs:
        raise BadModel(f"{path} has no outputs: it is truncated or not an ONNX model.", hint=again)
    if "ai.onnx" in model.opset_imports and "" not in model.opset_imports:
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    domains = set()
    for graph in _graphs(model):
        for output in graph.outputs:
            if output.producer() is None and not (output.is_graph_input() or output.is_initializer()):
                raise BadModel(f"{path}: nothing makes the output '{output.name}'.", hint=again)
        for node in graph:
            domains.add(node.domain)
            for value in node.inputs:
                if value is not None and value.graph is None:
                    raise BadModel(
                        f"{path}: the {node.op_type} '{node.name}' reads '{value.name}', which nothing makes.",
                        hint=again,
                    )
    missing = sorted(domain or "ai.onnx" for domain in domains if domain not in model.opset_imports)
    if missing:
        raise BadModel(
            f"{path} does not say which opset it uses of {', '.join(missing)}: it is truncated or incomplete.",
            hint=again,
        )
    circle = circular_call(model)
    if circle:
        raise BadModel(f"{path} has functions that call themselves, without an end: {circle}.", hint=again)
    opset = model.opset_imports.get("", OPSET_MINIMUM)
    if opset < OPSET_MINIMUM:
        raise BadModel(
            f"{path} uses opset {opset}; graphwright reads from {OPSET_MINIMUM} on.", hint="Export it again."
        )


def _external_tensors(model: ir.Model) -> Iterator[tuple[str, ir.ExternalTensor]]:
    """Yield every tensor that lies in another file, with the name of its value or node."""
    import onnx_ir as ir

    for graph in _graphs(model):
        for name, value in graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield name, value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.ExternalTensor):
                    yield str(node.name), attribute.value


def _check_external_data(model: ir.Model, path: Path) -> None:
    """Check each tensor that lies in another file, and let it read from that file, opened once for all."""
    import onnx_ir as ir

    source = _behind(path)
    sizes: dict[str, int] = {}
    files: dict[str, DataFile | None] = {}
    for name, tensor in _external_tensors(model):
        location = str(tensor.location)
        folder = source.parent if location == source.name else path.parent  # weights inside the file behind a link
        root = folder.resolve()
        if location not in sizes:
            found = _external_file(root, location, path)
            sizes[location], files[location] = found.stat().st_size, open_data_file(found)
        tensor.base_dir = folder
        offset = tensor.offset or 0
        length = tensor.length if tensor.length is not None else tensor.nbytes
        if offset < 0 or length < tensor.nbytes:
            raise BadModel(
                f"{path}: the weight '{name}' needs {tensor.nbytes} bytes, but is said to have {length} "
                f"at byte {offset}.",
                hint="The model file is damaged: export or copy it again.",
            )
        if offset + length > sizes[location]:
            raise BadModel(
                f"{path}: the weight '{name}' ends at byte {offset + length} of '{location}', "
                f"which has {sizes[location]} bytes.",
                hint="The external data file is truncated: copy it again.",
            )
        file = files[location]
        if file is not None:
            attach(tensor, file)
    for graph in _graphs(model):
        for value in graph.initializers.values():
            stored = value.const_value
            file = None if stored is None else data_file_of(stored)
            if file is not None and isinstance(stored, ir.ExternalTensor) and stored.dtype.bitwidth < 8 and stored.size:
                value.const_value = packed(stored, file)


def _external_file(root: Path, location: str, path: Path) -> Path:
    """Return the data file, links resolved.

    It must lie in the model's folder; or, where a download cache links both to its store, beside the file that the
    model is a link to.
    """
    named = Path(location)
    file = (root / named).resolve()
    is_in_store = path.is_symlink() and file.parent == _behind(path).parent and ".." not in named.parts
    if named.is_absolute() or not (file.is_relative_to(root) or is_in_store):
        raise BadModel(
            f"{path} names external data outside its folder: '{location}'.",
            hint="Put the data file next to the model and name it without '..'; such a path may be an attack.",
        )
    if not file.is_file():
        raise BadModel(f"{path} needs the external data file '{location}', which is missing.", hint="Copy it too.")
    return file


def save_model(model: ir.Model, path: Path) -> None:
    """Write `path`, and `path`.data next to it when there are weights over `INLINE_LIMIT_BYTES`.

    Equal models give equal bytes. The model in memory stays valid, also when it was loaded from the files that are
    replaced: their content stays open. Both files are written under temporary names first. Raises UsageError when the
    disk is full or the folder not writable; nothing is left behind then.

    A weight that lies in a file is copied by the kernel (shared, where the file system can). It is not hard-linked:
    onnx_ir refuses data with a second link as a possible attack, and an export over the source would change both.
    """
    import os

    data = path.with_name(path.name + ".data")
    temporary = [file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in (data, path)]
    try:
        copy = model.clone()
        has_data = _externalize(copy, temporary[0], data.name)
        _write(temporary[1], _bytes_of(copy))
        if has_data:
            temporary[0].replace(data)
        temporary[1].replace(path)
    except OSError as error:
        hint = "Free disk space or choose another folder." if error.errno == errno.ENOSPC else "Choose another folder."
        raise UsageError(f"{path} cannot be written: {error}", hint=hint) from error
    finally:
        for file in temporary:
            with contextlib.suppress(OSError):  # a read-only file system refuses even to remove what is not there
                file.unlink(missing_ok=True)


def _bytes_of(model: ir.Model) -> bytes:
    import onnx_ir as ir

    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)


def _externalize(model: ir.Model, file: Path, location: str) -> bool:
    """Write the large weights of `model` to `file` and let it refer to them as `location`; returns whether any."""
    import onnx_ir as ir

    large: list[ir.Value] = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if tensor.nbytes > INLINE_LIMIT_BYTES:
                large.append(value)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = read_tensor(tensor)
    read_attributes(model)
    if not large:
        return False
    with file.open("wb") as stream:
        for value in large:
            tensor = value.const_value
            assert tensor is not None
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT_BYTES))
            offset = stream.tell()
            _write_tensor(stream, tensor)
            value.const_value = ir.ExternalTensor(
                location,
                offset,
                stream.tell() - offset,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                metadata_props=dict(tensor.metadata_props),
            )
    return True


def _write_tensor(stream: BinaryIO, tensor: ir.TensorProtocol) -> None:
    """Append a tensor's bytes; one that lies in a file goes from file to file without being mapped or loaded."""
    import onnx_ir as ir

    file = data_file_of(tensor)
    if file is not None and isinstance(tensor, ir.ExternalTensor):
        copy_bytes(tensor, file, stream)
    elif hasattr(tensor, "tofile"):
        tensor.tofile(stream)
    else:
        stream.write(tensor.tobytes())


def proto_without_weights(model: ir.Model, *, max_bytes: int = INLINE_LIMIT_BYTES) -> onnx.ModelProto:
    """Return the model as protobuf, with each initializer over `max_bytes` as a reference to a file that is not there.

    For onnx's shape inference and checker, which need types, shapes and small constants only. `model` is as before when
    it returns.
    """
    import onnx_ir as ir

    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in model.graphs():
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if tensor is None or tensor.nbytes <= max_bytes or tensor.dtype == ir.DataType.STRING:
                    continue
                kept.append((value, tensor))
                value.const_value = ir.ExternalTensor(
                    "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
                )
        proto: onnx.ModelProto = ir.to_proto(model)
    finally:
        for value, tensor in kept:
            value.const_value = tensor
    return proto


def read_attributes(model: ir.Model) -> None:
    """Read in, in place, the tensors of node attributes that lie in another file: only initializers may stay there."""
    import onnx_ir as ir

    for graph in model.graphs():
        for node in graph:
            for name, attribute in node.attributes.items():
                if isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, read_tensor(attribute.value))


def read_tensor(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    """Return the tensor read into memory, past any mapping of its file, whose pages would stay in memory."""
    import onnx_ir as ir

    if tensor.dtype.bitwidth < 8:
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    array = read_elements(tensor, 0, tensor.size).reshape(tensor.shape.numpy())
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def read_rows(tensor: ir.TensorProtocol, start: int, count: int) -> np.ndarray:
    """Return rows `start` to `start + count` of a tensor; of one that lies in a file nothing else is read or mapped."""
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8:
        return tensor.numpy()[start : start + count]
    rest = tensor.shape.numpy()[1:]
    width = math.prod(rest)
    return read_elements(tensor, start * width, count * width).reshape(count, *rest)
