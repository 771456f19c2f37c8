from __future__ import annotations

import os

import numpy as np
import onnx_ir as ir
import pytest

from passes.spill_file import SpillFile


def test_a_file_that_was_cut_short_is_an_error() -> None:
    file = SpillFile()
    tensor = file.tensor(np.arange(64, dtype=np.float32), ir.DataType.FLOAT, (64,), "w")
    assert np.array_equal(tensor.numpy(), np.arange(64))
    assert file._file is not None
    os.ftruncate(file._file.fileno(), 100)
    again = file.tensor(np.zeros(0, np.float32), ir.DataType.FLOAT, (0,), "empty")
    assert again.numpy().size == 0
    with pytest.raises(OSError, match="156 bytes too early"):
        file.read(0, 256)
