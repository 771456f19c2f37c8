"""The mask of causal attention, once for all nodes of one graph whose lengths are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.dimensions import Dim
from passes.shape_vector import shape_vector

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.editing import Editor
    from passes.shapes import ShapeFacts


@dataclass(frozen=True, slots=True)
class CausalMasks:
    """The masks [Sq, Skv] made so far in one graph, whose nodes are visited in order."""

    facts: ShapeFacts
    editor: Editor
    _made: dict[tuple[Dim | None, Dim | None, int], ir.Value] = field(default_factory=dict)

    def mask(self, node: ir.Node, *, hidden: float) -> Callable[[], ir.Value] | None:
        """Return what makes the mask for an Attention: 0 for a key no later than the query, else `hidden`.

        Each row keeps its first key, so that none is hidden wholly. None where a length is not known.
        """
        query, key = node.inputs[0], node.inputs[1]
        shapes = self.facts.shape(query), self.facts.shape(key)
        if query is None or key is None or query.dtype is None or shapes[0] is None or shapes[1] is None:
            return None
        dims, dtype = (shapes[0][-2], shapes[1][-2]), query.dtype
        at = (*dims, int(dtype))
        if at in self._made:
            return lambda: self._made[at]
        lengths = shape_vector(node, dims, [query, key], self.facts, self.editor)
        if lengths is None:
            return None

        def make() -> ir.Value:
            self._made[at] = self._written(node, lengths(), dtype, hidden)
            return self._made[at]

        return make

    def _written(self, node: ir.Node, lengths: ir.Value, dtype: ir.DataType, hidden: float) -> ir.Value:
        import numpy as np
        import onnx_ir as ir

        fill = ir.Tensor(np.array([hidden], dtype=dtype.numpy()), dtype=dtype)
        first = self.editor.constant(np.array(1, dtype=np.int64), "first_diagonal")
        whole = self.editor.insert(
            node, "ConstantOfShape", [lengths], name="causal_hidden", attributes={"value": fill}, dtype=dtype
        )
        return self.editor.insert(
            node, "Trilu", [whole, first], name="causal_mask", attributes={"upper": 1}, dtype=dtype
        )
