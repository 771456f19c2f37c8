"""The model in a newer operator set."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.cleanup.changed_meanings import state_defaults, why_not_converted
from passes.matching import opset_of
from passes.serialization import OPSET_MINIMUM, read_attributes, read_tensor

if TYPE_CHECKING:
    import onnx_ir as ir

# From 18 on, an operator's newer version accepts what the older one did, but for these (up to the version named).
_CHANGED_AFTER_18 = {"DFT": 20, "GridSample": 20, "GroupNormalization": 21}
_SAFE_START = 18


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Convert the standard operators to opset `target`; never to an older one.

    onnx's converter takes a model up to opset 18, without its weights, and onnxscript's adapts the few operators that
    changed after that. The interface, value names and source locations stay. IR version 10 or newer is stated.
    Refuses, leaving the model as it was, when a converter fails or would change what a node means, model functions have
    not been inlined, or the opset is older than 9.
    """

    name: ClassVar[str] = "upgrade-opset"

    target: int = 23

    def __post_init__(self) -> None:
        if not _SAFE_START <= self.target <= 25:
            raise ValueError(f"target is an opset from {_SAFE_START} to 25; got {self.target}")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        opset = opset_of(model)
        if not 0 < opset < self.target:
            return recorder.result()
        label = str(model.graph.name or "graph")
        if model.functions:
            recorder.refuse(label, "the model has functions; run inline-functions first")
            return recorder.result()
        if opset < OPSET_MINIMUM:
            recorder.refuse(label, f"opset {opset} is older than {OPSET_MINIMUM}, where Scan got another meaning")
            return recorder.result()
        reason = why_not_converted(model, self.target)
        if reason:
            recorder.refuse(label, reason)
            return recorder.result()
        try:
            graph = _converted(model, _SAFE_START) if opset < _SAFE_START else None
        except Exception as error:
            recorder.refuse(label, f"onnx's converter failed from opset {opset}: {str(error).splitlines()[0]}")
            return recorder.result()
        if not recorder.may_apply(label, f"{opset}-to-{self.target}"):
            return recorder.result()
        if graph is not None:
            state_defaults(graph, opset)
            model.graph = graph
        _bump(model, self.target)
        model.ir_version = max(model.ir_version, 10)
        return recorder.result()


def _bump(model: ir.Model, target: int) -> None:
    opset = opset_of(model)
    changed = any(
        node.domain == "" and opset < _CHANGED_AFTER_18.get(node.op_type, 0) <= target
        for graph in model.graphs()
        for node in graph
    )
    if changed:
        from onnxscript import version_converter

        version_converter.convert_version(model, target)
    else:
        model.opset_imports[""] = target
    for graph in model.graphs():
        for node in graph:
            node.version = None


def _converted(model: ir.Model, target: int) -> ir.Graph:
    """Return the graph in opset `target`, from onnx's converter, with the weights of `model` put back."""
    import onnx
    import onnx_ir as ir

    large = {
        name: value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > 65536
    }
    copy = model.clone()
    declared = {value.name for value in copy.graph.inputs}
    for name in large:
        value = copy.graph.initializers.pop(name)
        tensor = value.const_value
        assert tensor is not None
        value.const_value = None
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        if name not in declared:
            copy.graph.inputs.append(value)
    _read_in(copy)
    proto = onnx.version_converter.convert_version(ir.to_proto(copy), target)
    graph: ir.Graph = ir.from_proto(proto).graph
    _check_interface(model.graph, graph, extra=set(large) - declared)
    for name, old in large.items():
        value = next(value for value in graph.inputs if value.name == name)
        if name not in declared:
            graph.inputs.remove(value)
        value.const_value = old.const_value
        graph.register_initializer(value)
    _restore_origins(model.graph, graph)
    graph.metadata_props.update(model.graph.metadata_props)
    graph.name, graph.doc_string = model.graph.name, model.graph.doc_string
    return graph


def _read_in(model: ir.Model) -> None:
    """Read, in place, every tensor that lies in a file: protobuf does not say in which folder that file is."""
    import onnx_ir as ir

    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = read_tensor(value.const_value)
    read_attributes(model)


def _check_interface(old: ir.Graph, new: ir.Graph, *, extra: set[str]) -> None:
    before = [str(value.name) for value in old.inputs if not value.is_initializer()]
    after = [str(value.name) for value in new.inputs if value.name not in extra and not value.is_initializer()]
    if before != after or [v.name for v in old.outputs] != [v.name for v in new.outputs]:
        raise ValueError("the converter changed the names of the inputs or outputs")


def _restore_origins(old: ir.Graph, new: ir.Graph) -> None:
    """Give each node the name, metadata and documentation that the node of the same output had."""
    by_output = {value.name: node for node in old for value in node.outputs if value.name}
    taken = {node.name for node in old}
    for node in new:
        origin = next((by_output[value.name] for value in node.outputs if value.name in by_output), None)
        if origin is not None:
            node.name = origin.name
            node.metadata_props.update(origin.metadata_props)
            node.doc_string = origin.doc_string
        elif node.name in taken:
            # the converter's Softmax before the Reshape that makes the old output, which has the name now
            node.name = next(name for at in itertools.count() if (name := f"{node.name}/{at}") not in taken)
            taken.add(node.name)
