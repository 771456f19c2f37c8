"""ONNX Runtime sessions that also return a graph's inner values, without copying its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """A graph whose inner values can be asked for; every session made from it shares one set of weights."""

    def __init__(self, model: ir.Model, *, threads: int) -> None:
        self._threads = threads
        import onnxruntime as ort

        self._proto, self._weights = _without_weights(model)
        # Made once: every session reads the same memory, which must outlive it.
        self._shared = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]

    def session(self, names: Sequence[str], *, sizes_only: bool = False) -> ort.InferenceSession:
        """Return a session whose outputs are the values `names`, or their element counts, with optimizations off."""
        import onnx
        import onnxruntime as ort

        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        del proto.graph.output[:]
        for index, name in enumerate(names):
            exposed = name
            if sizes_only:
                exposed = size_name(index)
                proto.graph.node.append(onnx.helper.make_node("Size", [name], [exposed]))
            proto.graph.output.append(onnx.ValueInfoProto(name=exposed))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_prepacking", "1")  # each session would copy the weights
        if self._shared:
            options.add_external_initializers(list(self._weights), self._shared)
        try:
            return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadModel(
                f"ONNX Runtime cannot load the graph for calibration: {error}",
                hint="Run the clean-up passes first, or quantize without this operator.",
            ) from error


def size_name(index: int) -> str:
    """Return the output that holds the element count of the value number `index`."""
    return f"__elements_{index}"


def run(session: ort.InferenceSession, feeds: Feeds, *, sample: int) -> list[npt.NDArray[np.generic]]:
    """Return the session's outputs in order. Raises UsageError that names the sample and its wrong input."""
    wanted = [value.name for value in session.get_inputs()]
    missing = [name for name in wanted if name not in feeds]
    unknown = [name for name in feeds if name not in wanted]
    if missing:
        raise UsageError(
            f"Calibration sample {sample} lacks the input {', '.join(missing)}.",
            hint=f"The model's inputs: {', '.join(wanted)}. The sample has: {', '.join(feeds) or 'nothing'}.",
        )
    if unknown:
        raise UsageError(
            f"Calibration sample {sample} has an input that the model lacks: {', '.join(unknown)}.",
            hint=f"The model's inputs: {', '.join(wanted)}.",
        )
    try:
        outputs: list[npt.NDArray[np.generic]] = session.run(None, dict(feeds))
    except Exception as error:
        shapes = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in feeds.items())
        raise UsageError(f"Calibration sample {sample} does not run ({shapes}): {error}") from error
    return outputs


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
