"""How the elements of small integer tensors, mostly shapes on their way to a Reshape, follow from a node's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from passes.content import Content
from passes.dimensions import Dim, Dims, equal, product, quotient, total
from passes.matching import constant_array, input_at, integer

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_MOST_ELEMENTS = 64


def _content(elements: Dims, *, is_scalar: bool = False) -> Content | None:
    return Content(elements, is_scalar) if len(elements) <= _MOST_ELEMENTS else None


def _shape(node: ir.Node, facts: ShapeFacts) -> Content | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    start, end = integer(node, "start", 0), integer(node, "end", len(shape))
    return _content(shape[start:end])


def _size(node: ir.Node, facts: ShapeFacts) -> Content | None:
    shape = facts.shape(node.inputs[0])
    return None if shape is None else _content((product(shape),), is_scalar=True)


def _same(node: ir.Node, facts: ShapeFacts) -> Content | None:
    return facts.content(node.inputs[0])


def _cast(node: ir.Node, facts: ShapeFacts) -> Content | None:
    import onnx_ir as ir

    kept = integer(node, "to", 0) in (ir.DataType.INT64, ir.DataType.INT32)
    return facts.content(node.inputs[0]) if kept else None


def _gather(node: ir.Node, facts: ShapeFacts) -> Content | None:
    data, indices = facts.content(node.inputs[0]), facts.content(node.inputs[1])
    if data is None or data.is_scalar or indices is None or indices.fixed is None:
        return None
    size = len(data.elements)
    if any(not -size <= index < size for index in indices.fixed):
        return None
    return _content(tuple(data.elements[index] for index in indices.fixed), is_scalar=indices.is_scalar)


def _slice(node: ir.Node, facts: ShapeFacts) -> Content | None:
    data = facts.content(node.inputs[0])
    if data is None or data.is_scalar or len(node.inputs) < 3:
        return None
    bounds: list[int] = []
    for index, default in ((1, None), (2, None), (3, 0), (4, 1)):
        given = input_at(node, index)
        if given is None and default is not None:
            bounds.append(default)
            continue
        content = facts.content(given)
        if content is None or content.fixed is None or len(content.fixed) != 1:
            return None
        bounds.append(content.fixed[0])
    start, end, axis, step = bounds
    if axis not in (0, -1) or step < 1:
        return None
    return _content(data.elements[start:end:step])


def _concat(node: ir.Node, facts: ShapeFacts) -> Content | None:
    elements: list[Dim | None] = []
    known = False
    for value in node.inputs:
        content, shape = facts.content(value), facts.shape(value)
        if content is not None and not content.is_scalar:
            elements.extend(content.elements)
            known = True
        elif shape is not None and len(shape) == 1 and shape[0] is not None and shape[0].fixed is not None:
            elements.extend([None] * min(shape[0].fixed, _MOST_ELEMENTS + 1))
        else:
            return None
    return _content(tuple(elements)) if known else None


def _unsqueeze(node: ir.Node, facts: ShapeFacts) -> Content | None:
    from passes.shape_rules import axes_of

    content, axes = facts.content(node.inputs[0]), axes_of(node, facts)
    if content is None or not content.is_scalar or axes is None or len(axes) != 1:
        return None
    return _content(content.elements)


def _squeeze(node: ir.Node, facts: ShapeFacts) -> Content | None:
    content = facts.content(node.inputs[0])
    if content is None or len(content.elements) != 1:
        return None
    return _content(content.elements, is_scalar=True)


def _reshape(node: ir.Node, facts: ShapeFacts) -> Content | None:
    content, wanted = facts.content(node.inputs[0]), facts.content(node.inputs[1])
    if content is None or wanted is None or wanted.fixed is None or wanted.is_scalar:
        return None
    if wanted.fixed == () and len(content.elements) == 1:
        return _content(content.elements, is_scalar=True)
    return _content(content.elements) if wanted.fixed in ((-1,), (len(content.elements),)) else None


def _pairwise(combine: Callable[[Dim | None, Dim | None], Dim | None]) -> ContentRule:
    def rule(node: ir.Node, facts: ShapeFacts) -> Content | None:
        columns = _columns([facts.content(value) for value in node.inputs])
        if columns is None:
            return None
        elements = tuple(combine(first, second) for first, second in columns[0])
        return _content(elements, is_scalar=columns[1])

    return rule


def _columns(contents: list[Content | None]) -> tuple[list[tuple[Dim | None, ...]], bool] | None:
    """Return the elements side by side, broadcast to one length, and whether all are scalars."""
    known = [content for content in contents if content is not None]
    if len(known) != len(contents):
        return None
    length = max(len(content.elements) for content in known)
    if any(len(content.elements) not in (1, length) for content in known):
        return None
    wide = [content.elements * length if len(content.elements) == 1 else content.elements for content in known]
    return list(zip(*wide, strict=True)), all(content.is_scalar for content in known)


def _equal_element(first: Dim | None, second: Dim | None) -> Dim | None:
    same = equal(first, second)
    return None if same is None else Dim(int(same))


def _divide_element(first: Dim | None, second: Dim | None) -> Dim | None:
    if first is not None and second is not None and (first.factor < 0 or second.factor < 0):
        return None  # integer division truncates; only exact quotients of dimensions are tracked
    return quotient(first, second)


def _where(node: ir.Node, facts: ShapeFacts) -> Content | None:
    columns = _columns([facts.content(value) for value in node.inputs])
    if columns is None:
        return None
    chosen: list[Dim | None] = []
    for condition, yes, no in columns[0]:
        if condition is None or condition.fixed is None:
            chosen.append(yes if yes == no else None)
        else:
            chosen.append(yes if condition.fixed else no)
    return _content(tuple(chosen), is_scalar=columns[1])


def _constant_of_shape(node: ir.Node, facts: ShapeFacts) -> Content | None:
    wanted = facts.content(node.inputs[0])
    attribute = node.attributes.get("value")
    if wanted is None or wanted.fixed is None or len(wanted.fixed) > 1 or attribute is None:
        return None
    fill = attribute.as_tensor()
    length = wanted.fixed[0] if wanted.fixed else 1
    if not fill.dtype.is_integer() or length > _MOST_ELEMENTS:
        return None
    return _content((Dim(int(fill.numpy().reshape(-1)[0])),) * length, is_scalar=not wanted.fixed)


def _reduce_prod(node: ir.Node, facts: ShapeFacts) -> Content | None:
    content = facts.content(node.inputs[0])
    if content is None or content.is_scalar:
        return None
    given = input_at(node, 1)
    axes = constant_array(given)
    if given is not None and axes is None:
        return None
    if integer(node, "noop_with_empty_axes", 0) and (axes is None or not axes.size):
        return None  # the input itself, not a product
    return _content((product(content.elements),), is_scalar=not integer(node, "keepdims", 1))


ContentRule = Callable[["ir.Node", "ShapeFacts"], "Content | None"]

CONTENT_RULES: dict[str, ContentRule] = {
    "Add": _pairwise(total),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _pairwise(_divide_element),
    "Equal": _pairwise(_equal_element),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _pairwise(lambda first, second: product((first, second))),
    "ReduceProd": _reduce_prod,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _pairwise(lambda first, second: total(first, second, sign=-1)),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
