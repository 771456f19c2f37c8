"""ONNX Runtime sessions over parts of a graph that also return its inner values, without copying its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from passes.errors import BadModel, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import onnx_ir as ir
    import onnxruntime as ort

    Feeds = Mapping[str, npt.NDArray[np.generic]]

_SHARED_FROM_BYTES = 1024
"""Weights from this size on are handed to the runtime as they lie in memory or in their file."""


class ExposedGraph:
    """A graph whose inner values can be asked for, whole or in parts; every session shares one set of weights.

    shared: the weights, to be fed to the sessions that have them as inputs. nodes: those that `wanted` values need, in
    graph order. types: how the runtime types each value, "tensor(float)".
    """

    def __init__(self, model: ir.Model, *, wanted: Collection[str], threads: int) -> None:
        import onnxruntime as ort

        self._threads = threads
        self._proto, self._weights = _without_weights(model)
        # As initializers they would be copied into each session; as inputs they are read where they lie.
        self.shared = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._weights.items()}
        graph = self._proto.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name: value for value in graph.input if value.name not in self._initializers}
        self.nodes, self.reads = _needed(graph.node, wanted)
        numbers = {number: name for name, number in ELEMENTS.items()}
        self.types = {name: numbers.get(value.type.tensor_type.elem_type, "") for name, value in self.inputs.items()}
        every = [name for node in self.nodes for name in node.output if name]
        if every:
            outputs = self.session(range(len(self.nodes)), every).get_outputs()
            self.types |= {output.name: output.type for output in outputs}

    def session(self, part: range, names: Sequence[str], *, sizes_only: bool = False) -> ort.InferenceSession:
        """Return a session over the nodes of `part` that returns the values `names`, or their element counts.

        Its inputs are what the part reads from outside, `shared` weights included. The runtime's optimizations are off.
        """
        import onnx
        import onnxruntime as ort

        proto = onnx.ModelProto()
        proto.CopyFrom(self._frame())
        proto.graph.node.extend(self.nodes[index] for index in part)
        made = {name for node in proto.graph.node for name in node.output}
        read = dict.fromkeys(name for index in part for name in self.reads[index] if name not in made)
        for name in read:
            if name in self.shared:
                weight = self._initializers[name]
                given = onnx.helper.make_tensor_value_info(name, weight.data_type, list(weight.dims))
                proto.graph.input.append(given)
            elif name in self._initializers:
                proto.graph.initializer.append(self._initializers[name])
            elif name in self.inputs:
                proto.graph.input.append(self.inputs[name])
            else:
                proto.graph.input.append(onnx.helper.make_tensor_value_info(name, ELEMENTS[self.types[name]], None))
        exposed = {name: f"__elements_{index}" if sizes_only else name for index, name in enumerate(names)}
        if sizes_only:
            proto.graph.node.extend(onnx.helper.make_node("Size", [name], [size]) for name, size in exposed.items())
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in exposed.values())
        options = _options(self._threads)
        if sizes_only:  # this order measures values as soon as they are made, so that they are freed early
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        try:
            return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadModel(
                f"ONNX Runtime cannot load the graph for calibration: {error}",
                hint="Run the clean-up passes first, or quantize without this operator.",
            ) from error

    def _frame(self) -> onnx.ModelProto:
        """Return the model without its nodes, values and weights."""
        import onnx

        frame = onnx.ModelProto(ir_version=self._proto.ir_version)
        frame.opset_import.extend(self._proto.opset_import)
        frame.functions.extend(self._proto.functions)
        frame.graph.name = self._proto.graph.name
        return frame


@cache
def _register_arena() -> None:
    """Let the sessions share one arena: one for each would keep what all of them need together."""
    import onnxruntime as ort

    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED}))


_AS_REQUESTED = 1
"""The arena grows by what is asked for, not by powers of two."""


def _options(threads: int) -> ort.SessionOptions:
    import onnxruntime as ort

    _register_arena()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.disable_prepacking", "1")  # it would copy the weights
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # statistics run in between
    return options


def free_arena() -> None:
    """Give back what the sessions' shared arena holds and nobody uses."""
    import onnx
    import onnxruntime as ort

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(proto.SerializeToString(), _options(1), providers=["CPUExecutionProvider"])
    shrinking = ort.RunOptions()
    shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, {"x": np.zeros(1, np.float32)}, shrinking)


ELEMENTS: Mapping[str, int] = {
    f"tensor({name})": number
    for name, number in {
        "float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "string": 8, "bool": 9,
        "float16": 10, "double": 11, "uint32": 12, "uint64": 13,
    }.items()
}  # fmt: skip
"""The runtime's types that numpy has too, with their number in onnx: what one session can hand to the next."""


def run(session: ort.InferenceSession, feeds: Feeds, *, sample: int) -> list[npt.NDArray[np.generic]]:
    """Return the session's outputs in order. Raises UsageError that names the sample."""
    try:
        outputs: list[npt.NDArray[np.generic]] = session.run(None, dict(feeds))
    except Exception as error:
        raise UsageError(f"Calibration sample {sample} does not run: {error}") from error
    return outputs


def _needed(
    nodes: Iterable[onnx.NodeProto], wanted: Collection[str]
) -> tuple[list[onnx.NodeProto], list[tuple[str, ...]]]:
    """Return the nodes that the `wanted` values depend on, in order, and what each reads."""
    needed = set(wanted)
    kept: list[tuple[onnx.NodeProto, tuple[str, ...]]] = []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            read = tuple(dict.fromkeys(_reads(node)))
            needed.update(read)
            kept.append((node, read))
    kept.reverse()
    return [node for node, _ in kept], [read for _, read in kept]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that the node reads, those that its subgraphs capture included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                yield from (name for name in _reads(inner) if name not in own)
                own.update(inner.output)
            yield from (output.name for output in graph.output if output.name not in own)


def _without_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[np.generic]]]:
    import onnx_ir as ir

    clone = model.clone()
    weights: dict[str, npt.NDArray[np.generic]] = {}
    for name, value in clone.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        array = np.asarray(tensor.numpy())
        is_shared = tensor.nbytes >= _SHARED_FROM_BYTES and array.dtype.kind in "fiub"
        if is_shared:  # bfloat16, int4 and the like travel inside the file
            weights[name] = np.ascontiguousarray(array)
            value.const_value = ir.ExternalTensor(
                "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=name, base_dir=""
            )
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=name)
    _read_in_the_rest(clone)
    return ir.to_proto(clone), weights


def _read_in_the_rest(clone: ir.Model) -> None:
    """Read in what lies in a file and can't be handed over: tensors of subgraphs and of node attributes."""
    import onnx_ir as ir

    def read(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        return ir.Tensor(np.asarray(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)

    for graph in clone.graphs():
        if graph is not clone.graph:
            for value in graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    value.const_value = read(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, read(attribute.value))
