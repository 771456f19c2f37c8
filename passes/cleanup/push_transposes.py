"""Fewer Transposes: the operators between them are written for the other order of axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult, Recorder, node_label
from passes.cleanup.axis_moves import TRANSPARENT, Moved, Perm, absorbed, inverse
from passes.cleanup.transpose_regions import Choice, best_choice, operands, regions, transposed_by
from passes.dimensions import plain
from passes.editing import Editor, forward
from passes.matching import constant_tensor, integers, is_op, opset_of
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_SINCE_OPSET = 13
"""Softmax and its like flattened their input before."""


@dataclass(frozen=True)
class PushTransposes(Pass):
    """Write the operators between Transposes for the other order of axes, where that leaves fewer Transposes.

    A region is a set of connected operators that commute with Transpose: elementwise ones with their broadcasts, Cast,
    Clip, Where, Concat, Split, Slice, Pad, reductions that keep their axes, Softmax and its like, CumSum, Quantize and
    DequantizeLinear, norms and products over trailing axes that stay where they are. For each order that a Transpose at
    its edge has, a smallest cut tells which of its nodes to turn; that is done only where the count falls. Small
    constants are transposed, weights never.

    A Transpose also goes where all of its readers take what it reads: Gemm transposes by itself; a reduction that takes
    axes away, Reshape and Flatten may not see the difference.

    Refuses a node at a Transpose whose operand has fewer axes, is a weight, or whose axes are not constant.
    """

    name: ClassVar[str] = "push-transposes"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if opset_of(model) < _SINCE_OPSET:
            return recorder.result()
        refused: dict[tuple[str, str], ir.Node] = {}
        for graph in model.graphs():
            left = _count(graph)
            while left:
                refused.clear()
                did = _absorb(graph, model, recorder) or _turn(graph, model, recorder, refused)
                before, left = left, _count(graph)
                if not did or left >= before:
                    break
        for (_, reason), node in refused.items():
            recorder.refuse(node, reason, "transpose-region")
        return recorder.result()


def _count(graph: ir.Graph | ir.Function) -> int:
    return sum(is_op(node, "Transpose") for node in graph)


def _absorb(graph: ir.Graph | ir.Function, model: ir.Model, recorder: Recorder) -> bool:
    """Let all readers of a Transpose read what it reads."""
    transposes = [node for node in graph if is_op(node, "Transpose")]
    facts = infer_shapes(model)
    editor, did = Editor(model), False
    for node in transposes:
        output, perm, source = node.outputs[0], integers(node, "perm"), node.inputs[0]
        if perm is None or source is None:
            continue
        if output.is_graph_output() or not output.uses():
            continue
        if perm == tuple(range(len(perm))):
            if not recorder.may_apply(node, "transpose-nothing"):
                return False
            output.replace_all_uses_with(source)
            editor.drop(node)
            did = True
            continue
        changes = {}
        for reader, place in output.uses():
            if len([value for value in reader.inputs if value is output]) > 1 or reader.graph is not graph:
                break
            moved = absorbed(reader, place, perm, facts)
            if moved is None:
                break
            changes[reader, place] = moved
        else:
            if not recorder.may_apply(node, "transpose-into-readers"):
                return False
            for (reader, place), moved in changes.items():
                _write(reader, place, source, moved, editor)
            editor.drop(node)
            did = True
    return did


def _write(reader: ir.Node, place: int, source: ir.Value, moved: Moved, editor: Editor) -> None:
    import onnx_ir as ir

    reader.replace_input_with(place, source)
    for name, value in moved.attributes.items():
        reader.attributes.add(ir.AttrInt64s(name, value) if isinstance(value, list) else ir.AttrInt64(name, value))
    for index, array in moved.integers.items():
        reader.replace_input_with(index, editor.constant(array, f"{reader.outputs[0].name}_axes"))


def _turn(
    graph: ir.Graph | ir.Function,
    model: ir.Model,
    recorder: Recorder,
    refused: dict[tuple[str, str], ir.Node],
) -> bool:
    facts = infer_shapes(model)
    editor, did = Editor(model), False
    for region in list(regions(graph, facts)):
        best: tuple[Choice, Perm] | None = None
        for perm in region.permutations():
            choice = best_choice(region, perm, facts)
            refused.update({(node_label(node), reason): node for node, reason in choice.refused})
            if choice.saved > (0 if best is None else best[0].saved):
                best = choice, perm
        if best is None:
            continue
        first = next(iter(best[0].nodes))
        if not recorder.may_apply(first, "transpose-region"):
            return False
        _Turn(best[0].nodes, best[1], facts, editor).run()
        did = True
    return did


@dataclass(frozen=True, slots=True)
class _Turn:
    nodes: dict[ir.Node, Moved]
    perm: Perm
    facts: ShapeFacts
    editor: Editor

    def run(self) -> None:
        turned: dict[ir.Value, ir.Value] = {}
        for node, moved in self.nodes.items():
            new = self._rewritten(node, moved, turned)
            turned.update(zip(node.outputs, new.outputs, strict=True))
        for node in self.nodes:
            for old in node.outputs:
                self._give(old, turned[old], node)
        for node in reversed(self.nodes):
            self.editor.drop(node)

    def _rewritten(self, node: ir.Node, moved: Moved, turned: dict[ir.Value, ir.Value]) -> ir.Node:
        """Put the node for the other order before the old one."""
        base = str(node.outputs[0].name)
        places = {place for place, _ in operands(node, self.facts)}
        inputs: list[ir.Value | None] = []
        for place, value in enumerate(node.inputs):
            if place in moved.integers:
                inputs.append(self.editor.constant(moved.integers[place], f"{base}_axes"))
            elif value is not None and place in places:
                inputs.append(self._other_order(value, node, turned))
            elif value is not None and not TRANSPARENT[node.op_type].first:
                inputs.append(self._constant(value))
            else:
                inputs.append(value)
        inputs += [
            self.editor.constant(array, f"{base}_axes")
            for place, array in sorted(moved.integers.items())
            if place == len(node.inputs)
        ]
        attributes: dict[str, Any] = {**node.attributes, **moved.attributes}
        first = self.editor.insert(
            node, node.op_type, inputs, name=base, attributes=attributes, outputs=len(node.outputs)
        )
        new = first.producer()
        assert new is not None
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.type = old.type
            self._shape(value, old)
            if not old.name:
                value.name = old.name
        return new

    def _shape(self, value: ir.Value, old: ir.Value) -> None:
        import onnx_ir as ir

        dims = self.facts.shape(old)
        if dims is None or len(dims) != len(self.perm):
            return
        moved = tuple(dims[axis] for axis in inverse(self.perm))
        value.shape = ir.Shape([plain(dim) for dim in moved])
        self.facts.shapes[value] = moved

    def _other_order(self, value: ir.Value, before: ir.Node, turned: dict[ir.Value, ir.Value]) -> ir.Value:
        found = turned.get(value)
        if found is not None:
            return found
        producer = value.producer()
        made = transposed_by(value)
        source: ir.Value | None = value
        back = inverse(self.perm)
        if made is not None and producer is not None:
            source = producer.inputs[0]
            back = tuple(made[axis] for axis in back)
        assert source is not None
        if back == tuple(range(len(back))):
            turned[value] = source
            return source
        new = self.editor.insert(
            before, "Transpose", [source], name=str(value.name), attributes={"perm": back}, dtype=value.dtype
        )
        self._shape(new, value)
        turned[value] = new
        return new

    def _constant(self, value: ir.Value) -> ir.Value:
        tensor = constant_tensor(value)
        if tensor is None or tensor.size == 1:
            return value
        array = tensor.numpy()
        full = array.reshape((1,) * (len(self.perm) - array.ndim) + array.shape)
        return self.editor.constant(np.ascontiguousarray(full.transpose(inverse(self.perm))), f"{value.name}_moved")

    def _stand_in(self, old: ir.Value, new: ir.Value) -> bool:
        """Let `new` be read for `old`, whose stated shape stays where it is an output of the graph."""
        stated = old.shape if old.is_graph_output() else None
        if not forward(old, new):
            return False
        if stated is not None:
            new.shape = stated.copy()
        return True

    def _give(self, old: ir.Value, new: ir.Value, before: ir.Node) -> None:
        """Let the readers of `old` that are not turned themselves read `new`, through a Transpose where they must."""
        import onnx_ir as ir

        is_left = old.is_graph_output()
        for reader, place in list(old.uses()):
            if reader in self.nodes:
                continue
            own = integers(reader, "perm") if is_op(reader, "Transpose") and reader.graph is before.graph else None
            if own is not None:
                both = tuple(self.perm[axis] for axis in own)
                if both == tuple(range(len(both))) and self._stand_in(reader.outputs[0], new):
                    self.editor.drop(reader)
                    continue
                reader.attributes.add(ir.AttrInt64s("perm", both))
                reader.replace_input_with(0, new)
                continue
            moved = absorbed(reader, place, self.perm, self.facts) if reader.graph is before.graph else None
            if moved is None:
                is_left = True
            else:
                _write(reader, place, new, moved, self.editor)
        if not is_left:
            return
        straight = self.editor.insert(
            before, "Transpose", [new], name=str(old.name), attributes={"perm": self.perm}, like=old
        )
        known = self.facts.shapes.get(old)
        if known is not None:
            self.facts.shapes[straight] = known
        self.editor.take_over(old, straight)
