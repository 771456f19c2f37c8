"""What OpenVINO made of the graph: the precision that each node runs in, and which planned int8 ones are float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Sequence[str]] = MappingProxyType({})
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_INTEGERS = frozenset({"i8", "u8"})
_NOT_COMPUTING = frozenset({"Const", "Input", "Output"})
# A "Subgraph" (compiled attention, for one) may hold products too, but reports the precision of its inputs only.
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell"})


@dataclass(frozen=True, slots=True)
class _Executed:
    kind: str
    precision: str
    implementation: str
    originals: tuple[str, ...]
    result: str

    @property
    def is_conversion(self) -> bool:
        """Whether it takes 8-bit integers and returns floats, or the reverse, and is no product that does so too."""
        return self.kind not in _PRODUCTS and (self.precision in _INTEGERS) is not (self.result in _INTEGERS)


def executed_from_compiled(
    compiled: Any, planned: Iterable[str], *, named: Mapping[str, Sequence[str]] = _NOTHING
) -> dict[str, Any]:
    """Return what runs, for the manifest.

    `named` are the graph's products, int8 or not, with the names that fusion may give them. by_node: precision of each
    of them that can be told.
    operators: count by the runtime's layer type. precisions: count by precision. int8_planned: how many products the
    graph asked for in int8. int8_executed: count by layer type of the products that run on 8-bit integers.
    float_fallbacks, fallbacks: planned products that run in float, with their precision and kernel. untraced: planned
    products that the runtime merged into a node that tells neither its origins nor its arithmetic. conversions: layers
    from 8-bit integers to float or back. reorders: layers that change the layout alone.
    """
    nodes = [_node_from_runtime(operation) for operation in compiled.get_runtime_model().get_ordered_ops()]
    computing = [node for node in nodes if node.kind not in _NOT_COMPUTING]
    products = {name: node for node in computing if node.kind in _PRODUCTS for name in node.originals}
    names = tuple(planned)
    floats = {name: products[name] for name in names if name in products and not _is_int8(products[name])}
    return {
        "by_node": {
            name: _PRECISIONS.get(found.precision, found.precision)
            for name, aliases in sorted(named.items())
            if (found := next((products[alias] for alias in aliases if alias in products), None)) is not None
        },
        "operators": dict(sorted(Counter(node.kind for node in computing).items())),
        "precisions": dict(sorted(Counter(node.precision for node in computing).items())),
        "int8_planned": len(names),
        "int8_executed": dict(
            sorted(Counter(node.kind for node in computing if node.kind in _PRODUCTS and _is_int8(node)).items())
        ),
        "float_fallbacks": [
            f"{name}: {node.kind} in {node.precision} ({node.implementation})" for name, node in sorted(floats.items())
        ],
        "fallbacks": [
            {"node": name, "kernel": f"{node.kind} in {node.precision}, {node.implementation}"}
            for name, node in sorted(floats.items())
        ],
        "untraced": sorted(name for name in names if name not in products),
        "conversions": sum(node.is_conversion for node in computing),
        "reorders": sum(node.kind == "Reorder" for node in computing),
    }


def conversion_names(compiled: Any) -> frozenset[str]:
    """Return the names of the layers of the compiled model that go from 8-bit integers to float or back."""
    operations = compiled.get_runtime_model().get_ordered_ops()
    return frozenset(each.get_friendly_name() for each in operations if _is_conversion(_node_from_runtime(each)))


def _is_conversion(node: _Executed) -> bool:
    return node.kind not in _NOT_COMPUTING and node.is_conversion


def _is_int8(node: _Executed) -> bool:
    return node.precision in _INTEGERS


def _node_from_runtime(operation: Any) -> _Executed:
    facts = {key: _text(value) for key, value in operation.get_rt_info().items()}
    originals: list[str] = []
    for name in facts.get("originalLayersNames", "").split(","):
        parts = name.split("/")  # "conv_3/WithoutBiases/DequantizationMultiply" is a part of conv_3
        originals += ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return _Executed(
        facts.get("layerType", "unknown"),
        facts.get("runtimePrecision", "unknown"),
        facts.get("primitiveType", "unknown"),
        tuple(filter(None, originals)),
        facts.get("outputPrecisions", facts.get("runtimePrecision", "unknown")).split(",")[0],
    )


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))
