"""A residual connection and the norm after it, for runtimes that compute both in one sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim
from passes.editing import Editor
from passes.legalize.contrib import concerns_contrib, insert_contrib, lacks_kernel, quantized_beside
from passes.matching import (
    has_reference,
    input_at,
    integer,
    is_op,
    number,
    operand_pairs,
    other_readers,
    producer_of,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

_FUSED = {"LayerNormalization": "SkipLayerNormalization", "RMSNormalization": "SkipSimplifiedLayerNormalization"}
_EPSILON = 1e-5  # of both norms, where the attribute is absent
_FLOAT32 = 1


@dataclass(frozen=True)
class FuseSkipNorm(Pass):
    """Join an Add and the norm that reads it to com.microsoft SkipLayerNormalization.

    norm(x + skip), norm(x + bias + skip) and norm(Sum(x, bias, skip)) with x of [T, H] or [B, S, H], and skip of the
    same shape, or of [1, S, H] or [S, H] beside [B, S, H]; bias, scale and shift have [H]. RMSNormalization becomes
    SkipSimplifiedLayerNormalization. Where the sum has other readers, the fourth output serves them.
    Refuses other ranks, shapes that are not provably these, a norm over more than the last axis, one that gives its
    mean or computes in another type than float32, sums of int8 data, and a type that the target has no kernel for.
    """

    name: ClassVar[str] = "fuse-skip-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if not concerns_contrib(context, *_FUSED.values()):
            return recorder.result()
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, *_FUSED) or has_reference(node):
                    continue
                if not concerns_contrib(context, _FUSED[node.op_type]):
                    continue
                found = list(_sums(node))
                if not found:
                    continue
                fitting = next((found for found in found if _fits(node, found, facts)), None)
                reason = _refusal(node, fitting, facts) or lacks_kernel(context, _FUSED[node.op_type], node.inputs[0])
                if reason:
                    recorder.refuse(node, reason)
                elif fitting is not None and recorder.may_apply(node):
                    _fuse(node, fitting, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Skip:
    """x + skip (+ bias); `add` makes the sum, `nodes` are all that do."""

    x: ir.Value
    skip: ir.Value
    bias: ir.Value | None
    add: ir.Node
    nodes: tuple[ir.Node, ...]


def _sums(norm: ir.Node) -> Iterator[_Skip]:
    """Yield each way to read the norm's input as a sum, the ones with a bias first."""
    add = producer_of(norm.inputs[0], "Add", "Sum")
    if add is None or add.graph is not norm.graph or any(value is None for value in add.inputs):
        return
    terms = [value for value in add.inputs if value is not None]
    if add.op_type == "Sum":
        if len(terms) == 3:
            for index in (1, 0, 2):  # the place of the bias
                x, skip = (value for place, value in enumerate(terms) if place != index)
                yield _Skip(x, skip, terms[index], add, (add,))
                yield _Skip(skip, x, terms[index], add, (add,))
        terms = terms if len(terms) == 2 else []
    elif add.op_type == "Add":
        for inner_sum, skip in operand_pairs(add):
            inner = producer_of(inner_sum, "Add")
            if inner is not None and inner.graph is add.graph and not other_readers(inner_sum, add):
                for x, bias in operand_pairs(inner):
                    yield _Skip(x, skip, bias, add, (add, inner))
                    yield _Skip(skip, x, bias, add, (add, inner))
    if len(terms) == 2:
        yield _Skip(terms[0], terms[1], None, add, (add,))
        yield _Skip(terms[1], terms[0], None, add, (add,))


def _fits(norm: ir.Node, found: _Skip, facts: ShapeFacts) -> bool:
    x, skip = facts.shape(found.x), facts.shape(found.skip)
    if x is None or skip is None or len(x) not in (2, 3) or None in x or None in skip:
        return False
    if found.bias is not None and facts.shape(found.bias) != x[-1:]:
        return False
    if any(facts.shape(value) != x[-1:] for value in norm.inputs[1:] if value is not None):
        return False
    if skip == x:
        return True
    return len(x) == 3 and skip[-2:] == x[-2:] and (len(skip) == 2 or (len(skip) == 3 and skip[0] == Dim(1)))


def _refusal(norm: ir.Node, found: _Skip | None, facts: ShapeFacts) -> str:
    shape = facts.shape(norm.inputs[0])
    if shape is None or len(shape) not in (2, 3):
        return f"the sum has {'an unknown rank' if shape is None else f'rank {len(shape)}'}, not 2 or 3"
    if integer(norm, "axis", -1) not in (-1, len(shape) - 1):
        return "the norm is over more than the last axis"
    if integer(norm, "stash_type", _FLOAT32) != _FLOAT32:
        return "the norm computes in another type than float32"
    if any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        return "the mean or deviation of the norm is read"
    if input_at(norm, 1) is None:
        return "the norm has no scale"
    if found is None:
        return "x and skip are not provably of the same shape, or bias, scale and shift not of the last dimension"
    reason = next(filter(None, map(quantized_beside, found.nodes)), "")
    if reason:
        return reason
    late = [value for value in norm.inputs[1:] if value is not None and value.producer() is not None]
    if late and _is_shared(found, norm):
        return f"'{late[0].name}' is computed, and the sum has other readers"
    return ""


def _is_shared(found: _Skip, norm: ir.Node) -> bool:
    return bool(other_readers(found.add.outputs[0], norm))


def _fuse(norm: ir.Node, found: _Skip, editor: Editor) -> None:
    output, total = norm.outputs[0], found.add.outputs[0]
    is_shared = _is_shared(found, norm)
    weights = [input_at(norm, 1), input_at(norm, 2)] if norm.op_type == "LayerNormalization" else [input_at(norm, 1)]
    fused = insert_contrib(
        editor,
        found.add if is_shared else norm,
        _FUSED[norm.op_type],
        [found.x, found.skip, *weights, found.bias],
        like=output,
        attributes={"epsilon": number(norm, "epsilon", _EPSILON)},
        outputs=4 if is_shared else 1,
    )
    if is_shared:
        node = fused.producer()
        assert node is not None
        kept = node.outputs[3]
        kept.name, kept.type = editor.fresh_name(f"{total.name}_sum"), total.type
        editor.take_over(total, kept)
    editor.take_over(output, fused)
