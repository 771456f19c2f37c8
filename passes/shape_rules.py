"""How each operator's output shape, and the content of small integer tensors, follow from its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from passes.content import Content
from passes.content_rules import CONTENT_RULES
from passes.dimensions import Dim, Dims, broadcast, product, quotient, unnamed
from passes.matching import input_at, integer, integers

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

ShapeRule = Callable[["ir.Node", "ShapeFacts"], "Dims | None"]


def infer_node(node: ir.Node, facts: ShapeFacts) -> None:
    """Record in `facts` what follows for the first output of `node`."""
    if node.domain != "" or not node.outputs:
        return
    shape_rule = SHAPE_RULES.get(node.op_type)
    if shape_rule is not None:
        shape = shape_rule(node, facts)
        if shape is not None:
            facts.shapes[node.outputs[0]] = shape
    if node.op_type == "Split":
        facts.shapes.update(_split(node, facts))
    content_rule = CONTENT_RULES.get(node.op_type)
    if content_rule is not None:
        content = content_rule(node, facts)
        if content is not None:
            facts.contents[node.outputs[0]] = content
            facts.shapes[node.outputs[0]] = () if content.is_scalar else (Dim(len(content.elements)),)


def _same(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    return facts.shape(node.inputs[0])


def _broadcast(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    return broadcast([facts.shape(value) for value in node.inputs])


def _matmul(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    first, second = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if first is None or second is None or len(first) < 2 or len(second) < 2:
        return None
    batch = broadcast([first[:-2], second[:-2]])
    return None if batch is None else (*batch, first[-2], second[-1])


def _gemm(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    first, second = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if first is None or second is None or len(first) != 2 or len(second) != 2:
        return None
    return first[integer(node, "transA", 0)], second[1 - integer(node, "transB", 0)]


def _transpose(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    perm = integers(node, "perm") or tuple(reversed(range(len(shape))))
    return tuple(shape[axis] for axis in perm)


def reshaped(shape: Dims | None, wanted: Dims, *, allow_zero: bool) -> Dims:
    """Return what Reshape makes of `shape` for a requested shape; 0 copies a dimension, -1 takes what is left."""
    result: list[Dim | None] = []
    for index, dim in enumerate(wanted):
        if dim == Dim(0) and not allow_zero:
            result.append(shape[index] if shape is not None and index < len(shape) else None)
        else:
            result.append(dim)
    if Dim(-1) in result:
        at = result.index(Dim(-1))
        others = product(dim for index, dim in enumerate(result) if index != at)
        result[at] = None if shape is None else quotient(product(shape), others)
    return tuple(result)


def _reshape(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    wanted = facts.content(node.inputs[1])
    if wanted is None:
        return None
    return reshaped(facts.shape(node.inputs[0]), wanted.elements, allow_zero=bool(integer(node, "allowzero", 0)))


def _expand(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    wanted = facts.content(node.inputs[1])
    return None if wanted is None else broadcast([facts.shape(node.inputs[0]), wanted.elements])


def axes_of(node: ir.Node, facts: ShapeFacts) -> tuple[int, ...] | None:
    """Return the axes that an attribute (older operators) or the second input gives; None where they vary."""
    attribute = integers(node, "axes")
    if attribute is not None:
        return attribute
    given = input_at(node, 1)
    if given is None:
        return ()
    content = facts.content(given)
    return None if content is None else content.fixed


def _unsqueeze(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(shape)
    return tuple(Dim(1) if axis in new else next(rest) for axis in range(rank))


def _squeeze(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if shape is None or not axes:
        return None
    gone = {axis % len(shape) for axis in axes}
    return tuple(dim for axis, dim in enumerate(shape) if axis not in gone)


def _reduce(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if shape is None or axes is None:
        return None
    if not axes:
        if integer(node, "noop_with_empty_axes", 0):
            return shape
        axes = tuple(range(len(shape)))
    gone = {axis % max(len(shape), 1) for axis in axes}
    if integer(node, "keepdims", 1):
        return tuple(Dim(1) if axis in gone else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in gone)


def _concat(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    from passes.dimensions import total

    shapes = [facts.shape(value) for value in node.inputs]
    if any(shape is None for shape in shapes) or "axis" not in node.attributes:
        return None
    known = [shape for shape in shapes if shape is not None]
    axis = integer(node, "axis", 0) % max(len(known[0]), 1)
    result = list(known[0])
    for shape in known[1:]:
        if len(shape) != len(result):
            return None
        for index, dim in enumerate(shape):
            result[index] = total(result[index], dim) if index == axis else (result[index] or dim)
    return tuple(result)


def _gather(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if not shape or indices is None:
        return None
    axis = integer(node, "axis", 0) % len(shape)
    return (*shape[:axis], *indices, *shape[axis + 1 :])


def _gather_elements(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    return facts.shape(node.inputs[1])


def _gather_nd(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    data, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if data is None or not indices or indices[-1] is None or indices[-1].fixed is None:
        return None
    return (*indices[:-1], *data[integer(node, "batch_dims", 0) + indices[-1].fixed :])


def _flatten(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return None
    axis = integer(node, "axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return product(shape[:axis]), product(shape[axis:])


def _slice(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape = facts.shape(node.inputs[0])
    if shape is None or len(node.inputs) < 3:
        return None
    starts, ends = facts.content(node.inputs[1]), facts.content(node.inputs[2])
    axes = facts.content(input_at(node, 3))
    if input_at(node, 3) is None:  # the first axes, as many as there are bounds
        axes = next((Content(_run(len(bound.elements))) for bound in (starts, ends) if bound is not None), None)
    if axes is None or axes.fixed is None:
        return (None,) * len(shape)
    one = Content((Dim(1),) * len(axes.fixed))
    steps = facts.content(input_at(node, 4)) if input_at(node, 4) is not None else one
    result = list(shape)
    for index, axis in enumerate(axes.fixed):
        at = axis % max(len(shape), 1)
        bounds = [None if part is None else part.elements[index] for part in (starts, ends, steps)]
        result[at] = _slice_length(shape[at], *bounds, name=str(node.outputs[0].name), axis=at)
    return tuple(result)


def _split(node: ir.Node, facts: ShapeFacts) -> dict[ir.Value, Dims]:
    shape = facts.shape(node.inputs[0])
    if not shape:
        return {}
    axis, count = integer(node, "axis", 0) % len(shape), len(node.outputs)
    given = facts.content(input_at(node, 1))
    lengths: Sequence[Dim | None] = (None,) * count
    whole, attribute = shape[axis], integers(node, "split")
    if attribute is not None:
        lengths = [Dim(length) for length in attribute]
    elif given is not None:
        lengths = given.elements
    elif input_at(node, 1) is None and whole is not None and whole.fixed is not None:
        each = -(-whole.fixed // count)
        lengths = [Dim(max(min(each, whole.fixed - index * each), 0)) for index in range(count)]
    elif input_at(node, 1) is None:
        lengths = (quotient(whole, Dim(count)),) * count
    if len(lengths) != count:
        return {}
    return {
        output: (*shape[:axis], length, *shape[axis + 1 :])
        for output, length in zip(node.outputs, lengths, strict=True)
    }


def _run(count: int) -> Dims:
    return tuple(Dim(index) for index in range(count))


def _slice_length(
    whole: Dim | None, start: Dim | None, end: Dim | None, step: Dim | None, *, name: str, axis: int
) -> Dim | None:
    if start is None or end is None or step is None or start.symbols or step.symbols or step.factor == 0:
        return None
    is_head = start.factor == 0 and step.factor == 1
    if end.symbols:
        if not is_head:
            return None
        return end if end == whole else unnamed(name, axis, at_most=end)
    if whole is not None and whole.fixed is not None:
        return Dim(len(range(*slice(start.factor, end.factor, step.factor).indices(whole.fixed))))
    return whole if is_head and end.factor >= 2**31 - 1 else None


def _tile(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    shape, repeats = facts.shape(node.inputs[0]), facts.content(node.inputs[1])
    if shape is None or repeats is None or len(repeats.elements) != len(shape):
        return None
    return tuple(product(pair) for pair in zip(shape, repeats.elements, strict=True))


def _range(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    start, limit, step = (facts.content(value) for value in node.inputs)
    if start is None or limit is None or step is None or start.fixed != (0,) or step.fixed != (1,):
        return None
    return limit.elements[:1]


def _constant_of_shape(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    wanted = facts.content(node.inputs[0])
    return None if wanted is None else wanted.elements


def _attention(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    query, value = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    if query is None or value is None or len(query) != len(value):
        return None
    if len(query) == 4:
        return (*query[:3], value[3])
    heads = quotient(value[2], Dim(integer(node, "kv_num_heads", 1)))
    return (*query[:2], product([heads, Dim(integer(node, "q_num_heads", 1))]))


def _recurrent(node: ir.Node, facts: ShapeFacts) -> Dims | None:
    data, recurrence = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    if data is None or recurrence is None or len(data) != 3 or len(recurrence) != 3:
        return None
    if integer(node, "layout", 0):
        return (*data[:2], recurrence[0], recurrence[2])
    return data[0], recurrence[0], data[1], recurrence[2]


_UNARY_TEXT = """
    Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization BitwiseNot Cast Ceil Celu Clip Cos Cosh CumSum Dropout
    Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf
    IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization Mish Neg Not QuantizeLinear DequantizeLinear
    RMSNormalization Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish
    Tan Tanh ThresholdedRelu Trilu
"""
_UNARY = tuple(_UNARY_TEXT.split())
_BROADCASTING_TEXT = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min
    Mod Mul Or Pow Sub Sum Where Xor
"""
_BROADCASTING = tuple(_BROADCASTING_TEXT.split())
_REDUCING_TEXT = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare
"""
_REDUCING = tuple(_REDUCING_TEXT.split())
SHAPE_RULES: dict[str, ShapeRule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_BROADCASTING, _broadcast),
    **dict.fromkeys(_REDUCING, _reduce),
    "Attention": _attention,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "RNN": _recurrent,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
