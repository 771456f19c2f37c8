"""Weights joined side by side, which are read when they are written to a file, one at a time, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from passes.matching import constant_tensor
from passes.serialization import read_tensor

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.editing import Editor


def packed_weight(parts: Sequence[ir.Value], base: str, editor: Editor) -> ir.Value:
    """Return an initializer [K, N1 + N2 + ..] of constants [K, N1], [K, N2], ...; nothing is read yet."""
    import onnx_ir as ir

    from passes.fusion.joined_tensor import JoinedTensor

    tensors = [tensor for part in parts if (tensor := constant_tensor(part)) is not None]
    assert len(tensors) == len(parts)
    name = editor.fresh_name(base)
    lazy = JoinedTensor(tensors, name)
    value = ir.Value(name=name, type=ir.TensorType(lazy.dtype), shape=lazy.shape.copy(), const_value=lazy)
    editor.model.graph.register_initializer(value)
    return value


def packed_bias(parts: Sequence[ir.Value | None], widths: Sequence[int], dtype: ir.DataType) -> np.ndarray:
    """Return the biases end to end, 0 where one is left out."""
    import numpy as np

    arrays = []
    for part, width in zip(parts, widths, strict=True):
        tensor = constant_tensor(part)
        arrays.append(np.zeros(width, dtype=dtype.numpy()) if tensor is None else _array(tensor).reshape(-1))
    return np.concatenate(arrays)


def _array(tensor: ir.TensorProtocol) -> np.ndarray:
    """Return the content, read from a file without mapping it: mapped pages would stay in memory."""
    import onnx_ir as ir

    return read_tensor(tensor).numpy() if isinstance(tensor, ir.ExternalTensor) else tensor.numpy()
