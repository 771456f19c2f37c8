"""Einsum written with the operators that runtimes have fast kernels for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dims
from passes.editing import Editor
from passes.matching import FLOATS, is_op, text
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseEinsum(Pass):
    """Write an Einsum that is one matrix product, one Transpose or nothing at all as that.

    | equation, for letters in any number of batch axes b | becomes |
    |---|---|
    | `bij,bjk->bik` | MatMul |
    | `ij,bjk->bik`, `bij,jk->bik` | MatMul, which broadcasts |
    | `bij,bkj->bik`, `bji,bjk->bik` | Transpose of the one operand that lies the other way, MatMul |
    | `bjk,bij->bik`: any of these with the operands exchanged | the same, exchanged back |
    | `ij->ji` | Transpose |
    | `ij->ij`, `->` | Identity |

    Refuses what needs more: two Transposes, a sum over several letters or over one operand alone, a diagonal, an
    ellipsis, three operands, integers, batch letters in another order or after those of the product, and letters whose
    length differs between operands (there Einsum would broadcast a 1).
    """

    name: ClassVar[str] = "fuse-einsum"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        einsums = [(graph, node) for graph in model.graphs() for node in graph if is_op(node, "Einsum")]
        if not einsums:
            return recorder.result()
        facts = infer_shapes(model)
        for _, node in einsums:
            shapes = [facts.shape(value) for value in node.inputs]
            dtype = node.outputs[0].dtype
            plan: _Plan | str = "the type is not one of floating point"
            if dtype is not None and dtype.name in FLOATS:
                plan = _plan(text(node, "equation", ""), shapes)
            if isinstance(plan, str):
                recorder.refuse(node, plan)
            elif recorder.may_apply(node, plan.rule):
                _rewrite(node, plan, shapes, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Plan:
    """operands: which inputs are multiplied, in order, each with the permutation that it needs first, if any."""

    rule: str
    operands: tuple[tuple[int, tuple[int, ...] | None], ...]


def _plan(equation: str, shapes: list[Dims | None]) -> _Plan | str:
    """Return how to compute the equation, or why it stays."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation:
        return f"'{equation}' has an ellipsis or no result"
    if len(terms) != len(shapes) or len(terms) > 2:
        return f"'{equation}' has {len(terms)} operands"
    if any(len(set(term)) < len(term) for term in (*terms, result)):
        return f"'{equation}' takes a diagonal"
    if any(shape is None or len(shape) != len(term) for term, shape in zip(terms, shapes, strict=True)):
        return "the rank of an operand is not known"
    if len(terms) == 1:
        if set(terms[0]) != set(result):
            return f"'{equation}' sums over one operand"
        if terms[0] == result:
            return _Plan("identity", ((0, None),))
        return _Plan("transpose", ((0, tuple(terms[0].index(letter) for letter in result)),))
    lengths: dict[str, object] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, dim in zip(term, shape or (), strict=True):
            if dim is None or lengths.setdefault(letter, dim) != dim:
                return f"'{letter}' of '{equation}' is not provably of one length"
    return _product(equation, terms[0], terms[1], result)


def _product(equation: str, first: str, second: str, result: str) -> _Plan | str:
    summed = (set(first) | set(second)) - set(result)
    if len(summed) != 1 or not summed <= set(first) & set(second):
        return f"'{equation}' is not a sum over one letter of both operands"
    (inner,) = summed
    if len(result) < 2:
        return f"'{equation}' is not a product of matrices"
    rows, columns = result[-2], result[-1]
    operands = ((0, first), (1, second)) if rows in first else ((1, second), (0, first))
    (left_index, left), (right_index, right) = operands
    batch = result[:-2]
    if rows in right or columns in left or rows not in left or columns not in right:
        return f"'{equation}' is not a product of matrices"
    placed = []
    for index, term, pair in ((left_index, left, rows + inner), (right_index, right, inner + columns)):
        own = "".join(letter for letter in term if letter not in pair)
        # the batch axes must be those of the result, from the last one on, so that MatMul broadcasts the others
        if not batch.endswith(own):
            return f"'{equation}' has batch axes in another order"
        wanted = own + pair
        placed.append((index, None if wanted == term else tuple(term.index(letter) for letter in wanted)))
    if len([perm for _, perm in placed if perm is not None]) > 1:
        return f"'{equation}' needs two Transposes"
    return _Plan("product", tuple(placed))


def _rewrite(node: ir.Node, plan: _Plan, shapes: list[Dims | None], editor: Editor) -> None:
    output = node.outputs[0]
    name = str(output.name)
    values = []
    for index, perm in plan.operands:
        value = node.inputs[index]
        if perm is not None:
            assert value is not None
            dims = None if value.shape is None else [value.shape.dims[axis] for axis in perm]
            value = editor.insert(
                node,
                "Transpose",
                [value],
                name=name if plan.rule == "transpose" else f"{value.name}_moved",
                attributes={"perm": perm},
                like=output,
                dtype=value.dtype,
                shape=None if dims is None else [dim if isinstance(dim, int) else dim.value for dim in dims],
            )
        values.append(value)
    new = values[0]
    if plan.rule != "transpose":
        op_type = "MatMul" if plan.rule == "product" else "Identity"
        new = editor.insert(node, op_type, values, name=name, like=output)
    assert new is not None
    editor.take_over(output, new)
