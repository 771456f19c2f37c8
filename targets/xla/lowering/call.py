"""What a lowering is told about the node that it lowers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Call:
    """One node's attributes, operator set and surroundings.

    float_type: what the program computes float32 tensors in.
    run_graph: evaluates a subgraph attribute with the values of its formal inputs; outer names stay visible.
    note_int8: records that a node was lowered to int8 arithmetic.
    suggest_bound: records a bound on a symbolic dimension that the operator may need.
    """

    node: ir.Node
    opset: int
    float_type: Any
    run_graph: Callable[[ir.Graph, Sequence[Any]], list[Any]]
    note_int8: Callable[[str], None]
    suggest_bound: Callable[[str], None]

    @property
    def output_count(self) -> int:
        return len(self.node.outputs)

    def wants(self, index: int) -> bool:
        """Return whether the output at `index` is named, and so wanted."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def has(self, name: str) -> bool:
        return name in self.node.attributes

    def integer(self, name: str, default: int = 0) -> int:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else int(attribute.as_int())

    def number(self, name: str, default: float = 0.0) -> float:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else float(attribute.as_float())

    def text(self, name: str, default: str = "") -> str:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else str(attribute.as_string())

    def integers(self, name: str) -> list[int] | None:
        """Return a list attribute, or None when it is absent."""
        attribute = self.node.attributes.get(name)
        return None if attribute is None else [int(item) for item in attribute.as_ints()]

    def numbers(self, name: str) -> list[float] | None:
        attribute = self.node.attributes.get(name)
        return None if attribute is None else [float(item) for item in attribute.as_floats()]

    def texts(self, name: str) -> list[str] | None:
        attribute = self.node.attributes.get(name)
        return None if attribute is None else [str(item) for item in attribute.as_strings()]

    def tensor(self, name: str) -> np.ndarray[Any, Any] | None:
        attribute = self.node.attributes.get(name)
        return None if attribute is None else np.asarray(attribute.as_tensor().numpy())

    def graph(self, name: str) -> ir.Graph:
        return self.node.attributes[name].as_graph()

    def dtype(self, code: int) -> Any:
        """Return the numpy dtype of an ONNX type code; float32 is what the program computes float32 in."""
        import onnx_ir as ir

        kind = ir.DataType(code)
        return self.float_type if kind == ir.DataType.FLOAT else kind.numpy()
