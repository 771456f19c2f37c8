"""weights.safetensors: written tensor by tensor, read through a memory map.

The format is an 8-byte little-endian header length, a JSON header (name -> dtype, shape, byte range) and the raw bytes;
see the safetensors documentation. Keys are sorted and nothing else is written, so equal weights have equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import ArtifactRefused
from targets.xla.lowering.program import narrowed
from targets.xla.symbols import dtype_from_name

if TYPE_CHECKING:
    import onnx_ir as ir

FILE_NAME = "weights.safetensors"
BAKED_NUMBERS = 16
"""Float constants up to this many elements are part of the program, not of the weights."""
BAKED_INTEGERS = 4096
"""One-dimensional integer constants up to this many are too: they are shapes, axes, zero points."""

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_NAMES = {code: name for name, code in _CODES.items()}
_HALF_BYTES = frozenset({"int4", "uint4"})
"""Types that the format lacks: two elements share a byte of a U8 tensor, whose metadata has type and shape."""
_HEADER_ALIGNMENT = 8


def weights_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Return the constants that are arguments of the program, by name: initializers and Constants of the main graph.

    Those of subgraphs and functions are part of the program: only within one graph does a name mean one value.
    """
    found: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and is_weight(value.const_value):
            found[name] = value.const_value
    for node in model.graph:
        if node.op_type == "Constant" and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            if is_weight(tensor):
                found[str(node.outputs[0].name)] = tensor
    return found


def is_weight(tensor: ir.TensorProtocol) -> bool:
    """Return whether a constant is an argument of the program rather than part of it."""
    name = tensor.dtype.numpy().name
    if name not in _CODES and name not in _HALF_BYTES:
        return False
    if name.startswith(("float", "bfloat")):
        return bool(tensor.size > BAKED_NUMBERS)
    return bool(tensor.size > BAKED_INTEGERS or (len(tensor.shape) > 1 and tensor.size > BAKED_NUMBERS))


def stored_dtype(tensor: ir.TensorProtocol, float_type: Any) -> np.dtype[Any]:
    """Return the type that a weight is stored in: float32 ones in the type that the program computes in."""
    dtype = np.dtype(tensor.dtype.numpy())
    return np.dtype(float_type) if dtype == np.float32 else dtype


def write_weights(path: Path, weights: Mapping[str, ir.TensorProtocol], float_type: Any) -> None:
    """Write the weights, one in memory at a time."""
    header: dict[str, Any] = {}
    halves: dict[str, str] = {}
    start = 0
    for name in sorted(weights):
        tensor = weights[name]
        dtype = stored_dtype(tensor, float_type)
        shape = list(tensor.shape.numpy())
        if dtype.name in _HALF_BYTES:
            halves[name] = f"{dtype.name} {','.join(map(str, shape))}"
            dtype, shape = np.dtype(np.uint8), [(math.prod(shape) + 1) // 2]
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype.name], "shape": shape, "data_offsets": [start, end]}
        start = end
    if halves:
        header["__metadata__"] = halves
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in sorted(weights):
            if name in halves:
                stream.write(weights[name].tobytes())
                continue
            array = narrowed(np.asarray(weights[name].numpy()), float_type)
            stream.write(np.ascontiguousarray(array).tobytes())


def _unpacked(data: np.ndarray[Any, Any], described: str) -> np.ndarray[Any, Any]:
    """Return the elements of bytes that hold two each, the first in the lower half, as "int4 64,48" describes them."""
    name, _, sizes = described.partition(" ")
    shape = tuple(int(size) for size in sizes.split(","))
    whole = np.empty(2 * data.size, np.uint8)
    whole[0::2], whole[1::2] = data & 0x0F, data >> 4
    if name == "int4":
        whole = ((whole ^ 8).astype(np.int8) - 8).astype(np.int8)
    return whole[: math.prod(shape)].astype(dtype_from_name(name)).reshape(shape)


def read_weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights by name, memory-mapped but for 4-bit ones.

    Raises ArtifactRefused for a file that is not what was written.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        halves = header.pop("__metadata__", {})
        found: dict[str, np.ndarray[Any, Any]] = {}
        for name, entry in header.items():
            dtype = dtype_from_name(_NAMES[entry["dtype"]])
            shape = tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if end == begin:
                found[name] = np.zeros(shape, dtype)
                continue
            raw = np.memmap(path, np.uint8, "r", offset=8 + length + begin, shape=(end - begin,))
            found[name] = _unpacked(raw, halves[name]) if name in halves else raw.view(dtype).reshape(shape)
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactRefused(
            f"The artifact's {path.name} cannot be read: {type(error).__name__}", hint="Build the artifact again."
        ) from error
