"""A matrix with its axes swapped, which is read when it is written to a file, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.matching import constant_tensor
from passes.serialization import read_tensor

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.editing import Editor


def transposed_weight(weight: ir.Value, editor: Editor) -> ir.Value:
    """Return an initializer [K, N] of a constant [N, K]; nothing is read yet."""
    import numpy as np
    import onnx_ir as ir

    tensor = constant_tensor(weight)
    assert tensor is not None

    def swap() -> ir.TensorProtocol:
        # without mapping the file: mapped pages would stay in memory
        array = read_tensor(tensor).numpy() if isinstance(tensor, ir.ExternalTensor) else tensor.numpy()
        return ir.Tensor(np.ascontiguousarray(array.T), dtype=tensor.dtype)

    name = editor.fresh_name(f"{weight.name}_transposed")
    shape = ir.Shape(list(reversed(tensor.shape.numpy())))
    lazy = ir.LazyTensor(swap, dtype=tensor.dtype, shape=shape, name=name)
    value = ir.Value(name=name, type=ir.TensorType(lazy.dtype), shape=shape.copy(), const_value=lazy)
    editor.model.graph.register_initializer(value)
    return value
