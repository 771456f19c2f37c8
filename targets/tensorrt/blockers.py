"""Every reason why TensorRT can't take a graph, found without TensorRT: operators, types, Q/DQ and the crash it has."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from passes.base import node_label
from passes.capabilities import WEIGHT_ONLY
from passes.errors import Blocker
from targets.origin import source_line
from targets.specs import model_inputs, model_outputs, why_not_fed
from targets.tensorrt.capabilities import (
    ARCHITECTURES,
    INTERFACE_TYPES,
    KERNELS,
    NO_FP32_PRODUCTS,
    NOT_BUILT,
    OPSET_LIMIT,
    PRECISION_FROM_TYPE,
    PRODUCTS,
    TENSOR_TYPES,
)
from targets.tensorrt.node_rules import broken_rules
from targets.tensorrt.planned import planned_precisions
from targets.tensorrt.quantization import quantization_faults
from targets.tensorrt.typed import typed

if TYPE_CHECKING:
    import onnx_ir as ir

_STANDARD_DOMAINS = ("", "ai.onnx")


def find_blockers(model: ir.Model, architectures: Collection[int]) -> tuple[Blocker, ...]:
    """Return all blockers for engines of these compute capabilities; with none named, those of any TensorRT."""
    known = typed(model)
    found = [*_opset(known), *_interface(model)]
    for node in _nodes(known):
        for reason in _node_reasons(node, known, architectures):
            found.append(Blocker(node_label(node), node.op_type, reason, source_line=source_line(node)))
    return tuple(found)


def precision_blockers(model: ir.Model, precision: str) -> Iterator[Blocker]:
    """Yield one blocker when no product of the graph has the low precision that the artifact would be labelled with.

    fp32 is the default of the build and takes a graph as it is, a quantized one too; a product of integer weights is a
    product of floats.
    """
    if precision == "fp32" or precision in WEIGHT_ONLY:
        return
    if precision == "int8-dynamic":
        yield Blocker("(model)", precision, "TensorRT takes no DynamicQuantizeLinear and no MatMulInteger: use int8")
        return
    counts = planned_precisions(model)["by_operator"]
    found = sorted({kind for kinds in counts.values() for kind in kinds})
    if found and precision not in found:
        reason = f"its products are in {', '.join(found)}, and TensorRT builds what the graph's types say"
        yield Blocker("(model)", precision, reason)


def _opset(model: ir.Model) -> Iterator[Blocker]:
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if opset > OPSET_LIMIT:
        yield Blocker("(model)", "opset", f"it is {opset}, TensorRT takes up to {OPSET_LIMIT}")


def _interface(model: ir.Model) -> Iterator[Blocker]:
    without_rank = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs) if value.shape is None}
    for kind, specs in (("Input", model_inputs(model)), ("Output", model_outputs(model))):
        for spec in specs:
            if spec.dtype not in INTERFACE_TYPES:
                is_stated = spec.dtype != "undefined"
                reason = f"TensorRT has no type {spec.dtype}: cast it in the model" if is_stated else why_not_fed(spec)
                yield Blocker(spec.name, kind, reason)
            if spec.name in without_rank:
                yield Blocker(spec.name, kind, "its rank is unknown: export the model with shapes")


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node: of the graph, of its subgraphs, and of the model's functions, which TensorRT inlines."""
    import onnx_ir as ir

    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def _node_reasons(node: ir.Node, model: ir.Model, architectures: Collection[int]) -> Iterator[str]:
    yield from _operator_reasons(node, model)
    yield from broken_rules(node)
    yield from quantization_faults(node)
    yield from _type_reasons(node, architectures)


def _operator_reasons(node: ir.Node, model: ir.Model) -> Iterator[str]:
    is_standard = node.domain in _STANDARD_DOMAINS
    name = node.op_type if is_standard else f"{node.domain}::{node.op_type}"
    if name in KERNELS or node.op_identifier() in model.functions:
        return
    if is_standard and node.op_type in NOT_BUILT:
        yield NOT_BUILT[node.op_type]
    else:
        yield f"TensorRT has no kernel for {name}"


def _type_reasons(node: ir.Node, architectures: Collection[int]) -> Iterator[str]:
    names = {value.dtype.name for value in _introduced(node) if value.dtype is not None}
    for name in sorted(names - TENSOR_TYPES - {"DOUBLE"}):
        yield f"TensorRT has no type {name}"
    precisions = {PRECISION_FROM_TYPE[name] for name in names if name in PRECISION_FROM_TYPE}
    for architecture in architectures:
        if architecture in NO_FP32_PRODUCTS and node.op_type in PRODUCTS and precisions == {"fp32"}:
            yield f"SM{architecture} has no matrix product in fp32 in TensorRT for RTX: build it in fp16"
        for precision in sorted(precisions - ARCHITECTURES[architecture]):
            yield f"SM{architecture} does not compute in {precision}" + _INSTEAD.get((architecture, precision), "")


def _introduced(node: ir.Node) -> list[ir.Value]:
    """Return the values whose type is this node's doing: what it makes, and what it reads that no node computed.

    So one unfit type is reported once, where it enters, and not at every node that passes it on.
    """
    if node.op_type == "Constant":
        return []
    read = [value for value in node.inputs if value is not None]
    entering = [value for value in read if (maker := value.producer()) is None or maker.op_type == "Constant"]
    return [*entering, *node.outputs]


_INSTEAD: dict[tuple[int, str], str] = {(75, "int8"): ": TensorRT 11 would compute these products in fp32"}
