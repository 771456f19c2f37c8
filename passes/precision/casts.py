"""Writing half precision into a graph: types, casts that keep masks finite, and weights converted when written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.matching import constant_tensor
from passes.precision.half_tensors import halved
from passes.precision.type_slots import is_float

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.editing import Editor
    from passes.precision.mask_values import MaskValues
    from passes.precision.overflow import HalfFormat
    from passes.precision.type_slots import Slots

_EXACT = {
    "FLOAT16": frozenset({"BOOL", "INT8", "UINT8"}),
    "BFLOAT16": frozenset({"BOOL", "INT8", "UINT8"}),
}
"""Types that a half type holds exactly."""


class CastWriter:
    """Turns nodes to half or single precision; each value is cast at most once in either direction."""

    def __init__(self, editor: Editor, half: HalfFormat, masks: MaskValues) -> None:
        import onnx_ir as ir

        self.editor = editor
        self.format = half
        self.masks = masks
        self.half = ir.DataType[half.name]
        self.single = ir.DataType.FLOAT
        self.suffix = "fp16" if half.name == "FLOAT16" else "bf16"
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._before: list[tuple[ir.Value, ir.Node]] = []
        self._constants: list[ir.Value] = []
        self._results = {value: graph for graph in editor.model.graphs() for value in graph.outputs}

    def to_half(self, node: ir.Node, slots: Slots) -> None:
        """Let `node` compute in half precision: its inputs, and what it makes."""
        import onnx_ir as ir

        for index, value in enumerate(node.inputs):
            if value is not None and is_float(value):
                node.replace_input_with(index, self._as(value, self.half if slots.takes(index) else self.single))
        for index, value in enumerate(node.outputs):
            if value.dtype == self.single and isinstance(value.type, ir.TensorType) and slots.gives(index):
                self.make_half(value)

    def to_single(self, node: ir.Node) -> None:
        """Let `node` read float32 wherever it read half precision."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == self.half and is_float(value):
                node.replace_input_with(index, self._as(value, self.single))

    def make_half(self, value: ir.Value) -> None:
        """Give a value the half type where it is made."""
        import onnx_ir as ir

        value.type = ir.TensorType(self.half)

    def finish(self, *, io_is_half: bool) -> None:
        """Give the outputs of all graphs their types, and remove the constants and casts that nobody reads."""
        for graph in list(self.editor.model.graphs()):
            wanted = self.half if io_is_half and graph is self.editor.model.graph else self.single
            for index, value in enumerate(graph.outputs):
                is_ours = value.dtype == self.half or (value.dtype == self.single and wanted == self.half)
                if is_ours and value.dtype != wanted and self._results.get(value) is not None:
                    self._restore(graph, index, value, wanted)
        for value, node in self._before:
            if not value.uses() and not value.is_graph_output():
                self.editor.drop(node)
        for value in self._constants:
            self.editor.drop_constant(value)

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return `value` in `dtype`: itself, its twin, or what a new Cast makes right behind it."""
        if value.dtype == dtype:
            return value
        if (value, dtype) in self._casts:
            return self._casts[value, dtype]
        tensor = constant_tensor(value)
        if tensor is not None and dtype == self.half and value.dtype == self.single:
            made = self._twin(value, tensor)
        else:
            made = self._cast(value, dtype)
        self._casts[value, dtype] = made
        return made

    def _twin(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        """Return an initializer of the main graph that holds the constant in half precision."""
        import onnx_ir as ir

        name = self.editor.fresh_name(f"{value.name}_{self.suffix}")
        twin = halved(tensor, self.format, name)
        shape = ir.Shape(tensor.shape.numpy())
        made = ir.Value(name=name, type=ir.TensorType(self.half), shape=shape, const_value=twin)
        self.editor.model.graph.register_initializer(made)
        self._constants.append(value)
        return made

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        source = value
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and dtype == self.half:
            before = producer.inputs[0]
            if before is not None and before.dtype is not None and constant_tensor(before) is None:
                if before.dtype == dtype:
                    self._before.append((value, producer))
                    return before
                if before.dtype.name in _EXACT[self.format.name]:
                    self._before.append((value, producer))
                    source = before
        elif dtype == self.half and value in self.masks.huge:
            source = self._clipped(value)
        name = f"{value.name}_{self.suffix if dtype == self.half else 'fp32'}"
        return self._behind(source, "Cast", [source], name, dtype, to=dtype)

    def _clipped(self, value: ir.Value) -> ir.Value:
        """Return `value` with finite numbers beyond the half type made finite there; infinities stay."""
        import onnx_ir as ir

        limit = np.float32(self.format.mask)
        bounds = [self.editor.constant(np.array(sign * limit), f"mask_{self.suffix}") for sign in (-1, 1)]
        clipped = self._behind(value, "Clip", [value, *bounds], f"{value.name}_clipped", self.single)
        if value not in self.masks.endless:
            return clipped
        endless = self._behind(value, "IsInf", [value], f"{value.name}_endless", ir.DataType.BOOL)
        inputs = [endless, value, clipped]
        return self._behind(clipped, "Where", inputs, f"{value.name}_kept", self.single)

    def _behind(
        self,
        anchor: ir.Value,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType,
        *,
        to: ir.DataType | None = None,
    ) -> ir.Value:
        """Return what a new node makes, put right behind the maker of `anchor`, in the same graph."""
        import onnx_ir as ir

        made = ir.Value(name=self.editor.fresh_name(name), type=ir.TensorType(dtype), shape=anchor.shape)
        attributes = [] if to is None else [ir.AttrInt64("to", to)]
        node = ir.Node(
            "", op_type, inputs, attributes, outputs=[made], name=self.editor.fresh_name(f"{made.name}_node")
        )
        producer = anchor.producer()
        graph = anchor.graph or self.editor.model.graph
        if producer is not None:
            assert producer.graph is not None
            producer.graph.insert_after(producer, [node])
        else:
            graph.insert_before(graph[0], [node])
        return made

    def _restore(self, graph: ir.Graph, index: int, value: ir.Value, dtype: ir.DataType) -> None:
        """Put a value of the wanted type and the old name in the place of a graph's output."""
        name = str(value.name)
        is_input = value.is_graph_input()
        if not is_input:
            value.name = self.editor.fresh_name(f"{name}_{self.suffix if value.dtype == self.half else 'fp32'}")
        made = self._casts.get((value, dtype)) or self._behind(value, "Cast", [value], name, dtype, to=dtype)
        self._casts[value, dtype] = made
        if not is_input and not made.is_graph_output():
            made.name = name
        graph.outputs[index] = made
