"""Chains of Reshape, Transpose, Cast, Squeeze and Unsqueeze, made one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.cleanup.fold_shapes import constant_shape
from passes.dimensions import Dim, Dims, plain, product
from passes.editing import Editor
from passes.matching import constant_integers, has_reference, integer, integers, other_readers, producer_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[["ir.Node", "_Scope"], bool]


@dataclass(frozen=True)
class MergeReshapes(Pass):
    """Merge neighbours that only move elements or change their type.

    Transpose of Transpose, Squeeze of Squeeze and Unsqueeze of Unsqueeze become one; Reshape, Flatten, Squeeze and
    Unsqueeze in any order become one Reshape, where a constant can ask for the result's shape; a Cast that
    loses nothing before another Cast is dropped; a CastLike whose type is known becomes a Cast; Reshape, Transpose,
    Reshape that fold leading dimensions away and bring them back become one Transpose. The first of two stays where
    something else reads it.
    """

    name: ClassVar[str] = "merge-reshapes"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        scope = _Scope(infer_shapes(model), Editor(model), context.recorder(self.name))
        for graph in model.graphs():
            for node in list(graph):
                rules = RULES.get(node.op_type, ()) if node.domain == "" else ()
                for rule in rules:
                    if node.graph is not graph or rule(node, scope):
                        break
        return scope.recorder.result()


@dataclass(frozen=True, slots=True)
class _Scope:
    facts: ShapeFacts
    editor: Editor
    recorder: Recorder

    def replace(
        self, node: ir.Node, op_type: str, inputs: list[ir.Value | None], rule: str, **attributes: object
    ) -> bool:
        """Put one new node in the place of `node`; returns whether the budget allowed it."""
        if not self.recorder.may_apply(node, rule):
            return False
        output = node.outputs[0]
        new = self.editor.insert(node, op_type, inputs, name=str(output.name), attributes=attributes, like=output)
        shape = self.facts.shape(output)
        if shape is not None:
            self.facts.shapes[new] = shape
        self.editor.take_over(output, new)
        return True


def _before(node: ir.Node, *op_types: str) -> ir.Node | None:
    previous = producer_of(node.inputs[0], *op_types)
    return previous if previous is not None and previous.graph is node.graph else None


def _transpose_of_transpose(node: ir.Node, scope: _Scope) -> bool:
    previous = _before(node, "Transpose")
    if previous is None:
        return False
    outer, inner = integers(node, "perm"), integers(previous, "perm")
    if outer is None or inner is None:
        return False
    return scope.replace(
        node, "Transpose", [previous.inputs[0]], "transpose-transpose", perm=[inner[axis] for axis in outer]
    )


def _reshape_of_reshape(node: ir.Node, scope: _Scope) -> bool:
    previous = _before(node, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    wanted = constant_integers(node.inputs[1])
    if previous is None or wanted is None or integer(node, "allowzero", 0):
        return False
    before, middle = scope.facts.shape(previous.inputs[0]), scope.facts.shape(previous.outputs[0])
    for index, dim in enumerate(wanted):
        if dim != 0:
            continue
        old = before[index] if before is not None and index < len(before) else None
        new = middle[index] if middle is not None and index < len(middle) else None
        if old is None or old != new:
            return False  # this 0 copies a dimension that only the middle shape has there
    return scope.replace(node, "Reshape", [previous.inputs[0], node.inputs[1]], "reshape-reshape")


def _moves_only(node: ir.Node, scope: _Scope) -> bool:
    """Reshape, Flatten, Squeeze and Unsqueeze in any order are one Reshape, where a constant can ask for the result."""
    import numpy as np

    previous = _before(node, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    if previous is None or previous.op_type == node.op_type != "Reshape":
        return False
    start, end = scope.facts.shape(previous.inputs[0]), scope.facts.shape(node.outputs[0])
    if start is None or end is None or None in end or any(dim == Dim(0) for dim in end):
        return False
    wanted = constant_shape(start, end, allow_zero=False)
    if isinstance(wanted, str) or (-1 in wanted and Dim(0) in start):
        return False
    if scope.recorder.budget.is_spent:
        return False
    constant = scope.editor.constant(np.array(wanted, dtype=np.int64), f"{node.outputs[0].name}_shape")
    return scope.replace(node, "Reshape", [previous.inputs[0], constant], "moves")


def _axes_chain(node: ir.Node, scope: _Scope) -> bool:
    """Squeeze of Squeeze, Unsqueeze of Unsqueeze: the axes of the first, shifted past those of the second."""
    import numpy as np

    previous = _before(node, node.op_type)
    shape = None if previous is None else scope.facts.shape(previous.inputs[0])
    if previous is None or shape is None or len(node.inputs) < 2 or len(previous.inputs) < 2:
        return False
    outer, inner = constant_integers(node.inputs[1]), constant_integers(previous.inputs[1])
    if outer is None or inner is None:
        return False
    if node.op_type == "Unsqueeze":
        middle = len(shape) + len(inner)
        outer = [axis % (middle + len(outer)) for axis in outer]
        inner = [axis % middle for axis in inner]
        places = [axis for axis in range(middle + len(outer)) if axis not in outer]
        axes = sorted([*outer, *(places[axis] for axis in inner)])
    else:
        inner = [axis % len(shape) for axis in inner]
        left = [axis for axis in range(len(shape)) if axis not in inner]
        axes = sorted([*inner, *(left[axis] for axis in outer)])
    if not scope.recorder.budget.is_spent:
        constant = scope.editor.constant(np.array(axes, dtype=np.int64), f"{node.outputs[0].name}_axes")
        return scope.replace(
            node, node.op_type, [previous.inputs[0], constant], f"{node.op_type.lower()}-{node.op_type.lower()}"
        )
    return False


def _cast_of_cast(node: ir.Node, scope: _Scope) -> bool:
    previous = _before(node, "Cast")
    if previous is None or previous.inputs[0] is None:
        return False
    source, middle = previous.inputs[0].dtype, integer(previous, "to", 0)
    if source is None or not _loses_nothing(source.name, int(middle)):
        return False
    to = integer(node, "to", 0)
    if not (source.is_floating_point() or source.is_integer() or source.name == "BOOL"):
        return False
    return scope.replace(node, "Cast", [previous.inputs[0]], "cast-cast", to=to)


def _cast_like(node: ir.Node, scope: _Scope) -> bool:
    """The second input says a type and nothing else: whoever computes it need not."""
    like = node.inputs[1]
    if like is None or like.dtype is None or has_reference(node):
        return False
    kept = {name: attribute for name, attribute in node.attributes.items() if name != "to"}
    return scope.replace(node, "Cast", [node.inputs[0]], "cast-like", **kept, to=int(like.dtype))


_WIDER: dict[str, tuple[str, ...]] = {
    "BOOL": ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FLOAT16", "FLOAT", "DOUBLE"),
    "INT8": ("INT16", "INT32", "INT64", "FLOAT16", "FLOAT", "DOUBLE"),
    "UINT8": ("INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FLOAT16", "FLOAT", "DOUBLE"),
    "INT16": ("INT32", "INT64", "FLOAT", "DOUBLE"),
    "INT32": ("INT64", "DOUBLE"),
    "FLOAT16": ("FLOAT", "DOUBLE"),
    "BFLOAT16": ("FLOAT", "DOUBLE"),
    "FLOAT": ("DOUBLE",),
}


def _loses_nothing(source: str, middle: int) -> bool:
    import onnx_ir as ir

    name = ir.DataType(middle).name
    return name == source or name in _WIDER.get(source, ())


def _reshape_transpose_reshape(node: ir.Node, scope: _Scope) -> bool:
    """[..., A, B] -> [N, A, B] -> [N, B, A] -> [..., B, A] is a Transpose of the last two axes."""
    transpose = _before(node, "Transpose")
    first = None if transpose is None else _before(transpose, "Reshape")
    if transpose is None or first is None:
        return False
    start, middle = scope.facts.shape(first.inputs[0]), scope.facts.shape(first.outputs[0])
    end = scope.facts.shape(node.outputs[0])
    if start is None or middle is None or end is None or not all(map(_all_known, (start, middle, end))):
        return False
    perm = integers(transpose, "perm")
    if len(middle) != 3 or perm != (0, 2, 1) or len(start) < 3 or middle[1:] != start[-2:]:
        return False
    if end != (*start[:-2], start[-1], start[-2]) or product(start[:-2]) != middle[0]:
        return False
    reason = other_readers(first.outputs[0], transpose) or other_readers(transpose.outputs[0], node)
    if reason:
        scope.recorder.refuse(node, reason, "reshape-transpose-reshape")
        return False
    rank = len(start)
    axes = [*range(rank - 2), rank - 1, rank - 2]
    return scope.replace(node, "Transpose", [first.inputs[0]], "reshape-transpose-reshape", perm=axes)


def _all_known(shape: Dims | None) -> bool:
    return shape is not None and all(plain(dim) is not None for dim in shape)


RULES: dict[str, tuple[Rule, ...]] = {
    "Cast": (_cast_of_cast,),
    "CastLike": (_cast_like,),
    "Flatten": (_moves_only,),
    "Reshape": (_reshape_transpose_reshape, _reshape_of_reshape, _moves_only),
    "Squeeze": (_axes_chain, _moves_only),
    "Transpose": (_transpose_of_transpose,),
    "Unsqueeze": (_axes_chain, _moves_only),
}
