"""Matrices side by side, written in blocks of rows."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from passes.fusion import joined_tensor
from passes.fusion.joined_tensor import JoinedTensor
from passes.serialization import read_rows


def _in_file(array: np.ndarray, folder: Path, name: str) -> ir.ExternalTensor:
    (folder / name).write_bytes(b"ahead" + array.tobytes())
    dtype = ir.DataType.from_numpy(array.dtype)
    shape = ir.Shape(array.shape)
    return ir.ExternalTensor(name, 5, array.nbytes, dtype, shape=shape, name=name, base_dir=folder)


@pytest.mark.parametrize("bytes_at_once", [1, 200, 1 << 20])
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_what_is_written_is_the_concatenation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_at_once: int, kind: type, is_mapped: bool
) -> None:
    monkeypatch.setattr(joined_tensor, "_BUFFER_BYTES", bytes_at_once)
    made = [np.random.default_rng(width).normal(size=(7, width)) for width in (5, 3, 4)]
    arrays: list[np.ndarray] = [array.astype(kind) for array in made]
    parts: list[ir.TensorProtocol] = [_in_file(array, tmp_path, f"w{i}") for i, array in enumerate(arrays[:2])]
    parts.append(ir.Tensor(arrays[2]))
    if is_mapped:
        parts[0].numpy()
    joined = JoinedTensor(parts, "w")
    wanted = np.concatenate(arrays, axis=1)
    with (tmp_path / "out").open("wb") as file:
        joined.tofile(file)
    assert (tmp_path / "out").read_bytes() == wanted.tobytes()
    np.testing.assert_array_equal(joined.numpy(), wanted)
    assert joined.tobytes() == wanted.tobytes()
    assert tuple(joined.shape.numpy()) == wanted.shape


def test_no_whole_part_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(part: ir.TensorProtocol, start: int, count: int) -> np.ndarray:
        read.append(count)
        return read_rows(part, start, count)

    monkeypatch.setattr(joined_tensor, "_BUFFER_BYTES", 64)
    monkeypatch.setattr(joined_tensor, "read_rows", counted)
    parts = [_in_file(np.ones((8, 4), np.float32), tmp_path, name) for name in "ab"]
    with (tmp_path / "out").open("wb") as file:
        JoinedTensor(parts, "w").tofile(file)
    assert max(read) == 2


def test_matrices_that_lie_transposed_in_memory(tmp_path: Path) -> None:
    """As the weights of a torch.nn.Linear do: what numpy joins of them has its columns in a row."""
    parts = [np.arange(12, dtype=np.float32).reshape(3, 4).T + offset for offset in (0, 100)]
    joined = JoinedTensor([ir.Tensor(part, name=f"w{place}") for place, part in enumerate(parts)], "w")
    with (tmp_path / "data").open("wb") as file:
        joined.tofile(file)
    assert (tmp_path / "data").read_bytes() == np.concatenate(parts, axis=1).tobytes()
