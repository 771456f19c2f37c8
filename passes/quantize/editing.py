"""Adding constants, fresh values and DequantizeLinear nodes to a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir


class GraphEditor:
    """Adds nodes and initializers to one graph under names that are not taken."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        made = [value.name for node in graph.all_nodes() for value in node.outputs]
        self._names = {*made, *(value.name for value in graph.inputs), *graph.initializers}

    def value(self, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        """Return a new value called `name`, or `name`_1 and so on where that is taken."""
        import onnx_ir as ir

        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        return ir.Value(name=unique, type=ir.TensorType(dtype), shape=shape)

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """Return a new initializer that holds `array`."""
        import onnx_ir as ir

        tensor = ir.Tensor(array)
        value = self.value(name, tensor.dtype, ir.Shape(array.shape))
        tensor.name = value.name
        value.const_value = tensor
        self.graph.register_initializer(value)
        return value

    def dequantized(
        self,
        name: str,
        before: ir.Node,
        codes: npt.NDArray[np.generic],
        scale: npt.NDArray[np.float32],
        *,
        axis: int | None,
    ) -> ir.Value:
        """Return the real value of constant `codes` (zero point 0), computed in front of the node `before`."""
        import numpy as np
        import onnx_ir as ir

        operands = (
            self.constant(f"{name}_quantized", codes),
            self.constant(f"{name}_scale", scale),
            self.constant(f"{name}_zero_point", np.zeros(scale.shape, codes.dtype)),
        )
        real = self.value(f"{name}_dequantized", ir.DataType.FLOAT, operands[0].shape)
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node("", "DequantizeLinear", operands, attributes, outputs=[real], name=f"{real.name}_node")
        self.graph.insert_before(before, [node])
        return real

    def insert(self, after: ir.Node | None, *nodes: ir.Node) -> None:
        """Insert `nodes` behind the node `after`, or at the start for readers of an input."""
        if after is not None:
            self.graph.insert_after(after, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    def drop_if_unread(self, value: ir.Value) -> None:
        """Remove a constant that no node reads any more."""
        if any(True for _ in value.uses()) or value.is_graph_output():
            return
        if value.name in self.graph.initializers:
            del self.graph.initializers[str(value.name)]
        elif (producer := value.producer()) is not None:
            self.graph.remove(producer, safe=True)
