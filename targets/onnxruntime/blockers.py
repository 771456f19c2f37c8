"""All nodes that ONNX Runtime cannot execute, found by asking it about each kind of node."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from passes.base import node_label
from passes.errors import Blocker
from passes.serialization import INLINE_LIMIT_BYTES, save_model
from targets.onnxruntime.capabilities import OPSET_LIMIT, kernels_of
from targets.onnxruntime.session import open_session
from targets.onnxruntime.settings import Settings, provider_is_here, session_options
from targets.origin import source_line
from targets.specs import model_inputs, model_outputs, why_not_fed

if TYPE_CHECKING:
    import onnx_ir as ir

    from targets.base import Precision

_FEEDABLE = frozenset(
    {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "string"}
    | {"uint8", "uint16", "uint32", "uint64"}
)
_PRECISION_REASONS: dict[str, str] = {
    "bf16": "ONNX Runtime's CPU provider has bfloat16 kernels for a few operators only, none of them Conv or MatMul",
    "fp8": "ONNX Runtime's CPU provider converts from and to float8 and multiplies nothing in it",
}
_UNKNOWN = "ONNX Runtime knows no operator of this name and domain"
_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |^Load model from .*? failed: ?|/\S*/(?=\w+\.(cc|h):)"
    r"|^\w+\.(cc|h):\d+ \S+ .*?\)(?= [A-Z])"
)


def find_blockers(model: ir.Model, settings: Settings, *, precision: Precision) -> tuple[Blocker, ...]:
    """Return every reason why this model can't run: precision, opset, types of inputs and outputs, then nodes.

    A node is asked about in a one-node model of its own types; what is refused there counts only if the whole model is
    refused too, since a node may need to see its neighbours' constants.
    """
    too_new = tuple(_opset_blockers(model))
    general = (*_precision_blockers(precision, settings), *too_new, *_type_blockers(model))
    if too_new or not provider_is_here(settings):  # of an opset that it does not know, it would say so at each node
        return general
    suspects = tuple(_refused_nodes(model, settings))
    if suspects and _loads(model, settings):
        suspects = ()
    return (*general, *suspects)


def _precision_blockers(precision: Precision, settings: Settings) -> Iterator[Blocker]:
    if settings.provider == "cpu" and precision in _PRECISION_REASONS:
        yield Blocker(node=precision, operator="precision", reason=_PRECISION_REASONS[precision])


def _opset_blockers(model: ir.Model) -> Iterator[Blocker]:
    version = model.opset_imports.get("", 0)
    if version > OPSET_LIMIT:
        yield Blocker(node=str(version), operator="opset", reason=f"ONNX Runtime is used up to opset {OPSET_LIMIT}")


def _type_blockers(model: ir.Model) -> Iterator[Blocker]:
    for kind, specs in (("input", model_inputs(model)), ("output", model_outputs(model))):
        for spec in specs:
            if spec.dtype not in _FEEDABLE:
                yield Blocker(node=spec.name, operator=kind, reason=why_not_fed(spec))


def _refused_nodes(model: ir.Model, settings: Settings) -> Iterator[Blocker]:
    answers: dict[bytes, str] = {}
    nodes = [*model.graph.all_nodes(), *(node for body in model.functions.values() for node in body.all_nodes())]
    for node in nodes:
        if _holds_graphs(node) or node.op_identifier() in model.functions:
            continue  # its inner nodes are asked about one by one
        if any(value is not None and value.type is None for value in node.inputs):
            if not _is_known(node):  # without types, the name is all that can be asked about
                yield Blocker(node_label(node), node.op_type, _UNKNOWN, source_line(node))
            continue
        alone = _alone(node, model)
        if alone not in answers:
            answers[alone] = _refusal(alone, settings)
        if answers[alone]:
            yield Blocker(node_label(node), node.op_type, answers[alone], source_line(node))


def _is_known(node: ir.Node) -> bool:
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    kernels = kernels_of("CPUExecutionProvider")
    name = f"{domain}::{node.op_type}" if domain else node.op_type
    return onnx.defs.has(node.op_type, domain=domain) or kernels is None or name in kernels


def _holds_graphs(node: ir.Node) -> bool:
    import onnx_ir as ir

    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _alone(node: ir.Node, model: ir.Model) -> bytes:
    """Return a serialized model of just this node, its names made neutral so that equal questions are equal bytes."""
    import onnx_ir as ir

    values: dict[ir.Value, ir.Value] = {}
    for value in node.inputs:
        if value is not None and value not in values:
            values[value] = _stand_in(value, f"in{len(values)}")
    fed = list(values.values())
    twin = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else values[value] for value in node.inputs],
        list(node.attributes.values()),
        outputs=[
            ir.Value(name=f"out{index}" if value.name else "", type=value.type)
            for index, value in enumerate(node.outputs)
        ],
        name="node",
    )
    graph = ir.Graph(
        [value for value in fed if value.const_value is None],
        [value for value in twin.outputs if value.name],
        nodes=[twin],
        initializers=[value for value in fed if value.const_value is not None],
        opset_imports=model.opset_imports,
        name="alone",
    )
    alone = ir.to_proto(ir.Model(graph, ir_version=model.ir_version))
    return bytes(alone.SerializeToString(deterministic=True))


def _stand_in(value: ir.Value, name: str) -> ir.Value:
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is not None and tensor.nbytes <= INLINE_LIMIT_BYTES:
        return ir.Value(
            name=name, type=value.type, shape=value.shape, const_value=ir.tensor(tensor.numpy().copy(), name=name)
        )
    return ir.Value(name=name, type=value.type, shape=value.shape)


def _refusal(alone: bytes, settings: Settings) -> str:
    """Return why the runtime does not load this model, in one line, or the empty string."""
    try:
        open_session(alone, settings, options=session_options(settings, threads=1))
    except Exception as error:  # the runtime raises a dozen classes without a common base
        return cause_from_error(error)
    return ""


def cause_from_error(error: Exception) -> str:
    """Return the runtime's message without its code prefix and build paths, on one line."""
    text = " ".join(str(error).split())
    while (stripped := _NOISE.sub("", text)) != text:
        text = stripped
    return text.strip()


def _loads(model: ir.Model, settings: Settings) -> bool:
    with tempfile.TemporaryDirectory(prefix="graphwright-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        try:
            open_session(path, settings, options=session_options(settings, threads=1))
        except Exception:  # any class, as above
            return False
    return True
