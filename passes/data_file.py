"""A file that weights lie in, opened and mapped once for all of them, so that it is there even if it is replaced."""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_PLACE = "graphwright:data file"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False, slots=True)
class DataFile:
    """An open file and a mapping of it: two file descriptors, whatever the number of its tensors."""

    file: BinaryIO
    mapping: mmap.mmap

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` from `offset` on, past the mapping: mapped pages would stay in memory."""
        done = 0
        while done < len(target):
            count = os.preadv(self.file.fileno(), [target[done:]], offset + done)
            if not count:
                raise OSError(f"'{self.file.name}' was shortened while it was read")
            done += count


def open_data_file(path: Path) -> DataFile | None:
    """Return the file, open; None for an empty one, which cannot be mapped."""
    file = path.open("rb")
    if not os.fstat(file.fileno()).st_size:
        file.close()
        return None
    return DataFile(file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def attach(tensor: ir.ExternalTensor, file: DataFile) -> None:
    """Let the tensor read from `file` from now on.

    onnx_ir would map the file anew for each tensor, and refuses one with a second hard link, which package installers
    make; where the file may lie has been checked when it was loaded.
    """
    import numpy as np

    tensor.meta[_PLACE] = file
    if not tensor.size:
        return
    tensor.raw = file.mapping
    if tensor.dtype.bitwidth < 8:
        return  # elements that share bytes: see `packed`
    kind = tensor.dtype.numpy().newbyteorder("<")
    array = np.frombuffer(file.mapping, dtype=kind, count=tensor.size, offset=tensor.offset or 0)
    tensor._array = array.reshape(tensor.shape.numpy())


def packed(tensor: ir.ExternalTensor, file: DataFile) -> ir.TensorProtocol:
    """Return a tensor whose elements share bytes, over the mapping: onnx_ir would map the file again to unpack it."""
    import numpy as np
    import onnx_ir as ir

    content = np.frombuffer(file.mapping, dtype=np.uint8, count=tensor.nbytes, offset=tensor.offset or 0)
    return ir.PackedTensor(
        content,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def data_file_of(tensor: ir.TensorProtocol) -> DataFile | None:
    """Return the file that `attach` gave the tensor."""
    found = tensor.meta.get(_PLACE) if hasattr(tensor, "meta") else None
    return found if isinstance(found, DataFile) else None


def read_elements(tensor: ir.ExternalTensor, start: int, count: int) -> np.ndarray:
    """Return some elements of a tensor of whole bytes, in a row; nothing else is read."""
    import numpy as np

    kind = tensor.dtype.numpy()
    offset = (tensor.offset or 0) + start * kind.itemsize
    file = data_file_of(tensor)
    if file is None and tensor.raw is not None:
        return tensor.numpy().reshape(-1)[start : start + count]
    if file is None:
        return np.fromfile(tensor.path, dtype=kind, count=count, offset=offset)
    array = np.empty(count, dtype=kind)
    if count:
        file.read_into(array.view(np.uint8).data, offset)
    return array


def copy_bytes(tensor: ir.ExternalTensor, file: DataFile, stream: BinaryIO) -> int:
    """Append the tensor's bytes to `stream`, an open file; returns how many of them the kernel copied by itself."""
    offset, left = tensor.offset or 0, tensor.length or tensor.nbytes
    stream.flush()
    by_kernel = _copied_by_kernel(file.file.fileno(), stream.fileno(), offset, left)
    stream.seek(0, os.SEEK_END)
    offset, left = offset + by_kernel, left - by_kernel
    buffer = memoryview(bytearray(min(left, _CHUNK_BYTES)))
    while left:
        piece = buffer[: min(left, _CHUNK_BYTES)]
        file.read_into(piece, offset)
        stream.write(piece)
        offset, left = offset + len(piece), left - len(piece)
    return by_kernel


def _copied_by_kernel(source: int, target: int, offset: int, length: int) -> int:
    """Return how many bytes were copied at the end of `target`: fewer, where the system or file system cannot."""
    done = 0
    if not hasattr(os, "copy_file_range"):
        return done
    while done < length:
        try:
            count = os.copy_file_range(source, target, length - done, offset + done)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            return done
        if not count:
            return done
        done += count
    return done
