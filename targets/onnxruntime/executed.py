"""What ONNX Runtime made of the graph: which operators run, and which planned int8 ones fell back to float."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

INT8_OPERATORS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
    }
)
_NOTHING: Mapping[str, Sequence[str]] = MappingProxyType({})
_PRODUCT = re.compile("Conv|MatMul|Gemm|LSTM|GRU|Attention")
_SUFFIX = re.compile(r"(/[^/]+|_nchwc|_nhwc|_token_\d+)$")
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def watch_optimized_graph(options: Any, folder: Path) -> Path:
    """Tell the runtime to leave the graph that it executes in `folder`; return the file that it will write."""
    path = folder / "executed.onnx"
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", path.name + ".data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return path


def executed_from_graph(
    path: Path, planned: Iterable[str], *, named: Mapping[str, Sequence[str]] = _NOTHING
) -> dict[str, Any]:
    """Return what runs, for the manifest.

    `named` are the graph's products, int8 or not, with the names that fusion may give them. by_node: "int8" or "float"
    for each of them that can be told.
    operators: count by "Op" or "domain::Op". int8_planned: how many products the graph asked for in int8.
    int8_executed: count by operator of what runs on integers. float_fallbacks: planned products that run in float.
    untraced: planned products that the runtime merged into a node of another name. conversions: Q and DQ left.
    """
    import onnx_ir as ir

    nodes = list(ir.load(path).graph.all_nodes())
    operators = Counter(_qualified(node) for node in nodes)
    products = [node for node in nodes if node.name and _PRODUCT.search(node.op_type)]
    by_name = {_base_name(str(node.name)): node for node in products}
    by_name |= {str(node.name): node for node in products}
    fate = {name: _fate(by_name, name) for name in planned}
    kinds = {
        name: next((kind for alias in aliases if (kind := _fate(by_name, alias)) != "untraced"), "untraced")
        for name, aliases in sorted(named.items())
    }
    return {
        "by_node": {name: kind for name, kind in kinds.items() if kind != "untraced"},
        "operators": dict(sorted(operators.items())),
        "int8_planned": len(fate),
        "int8_executed": {name: operators[name] for name in sorted(operators) if _bare(name) in INT8_OPERATORS},
        "float_fallbacks": sorted(name for name, kind in fate.items() if kind == "float"),
        "untraced": sorted(name for name, kind in fate.items() if kind == "untraced"),
        "conversions": sum(count for name, count in operators.items() if name in _CONVERSIONS),
    }


def _fate(by_name: Mapping[str, ir.Node], name: str) -> str:
    node = by_name.get(name)
    if node is None:
        return "untraced"
    return "int8" if node.op_type in INT8_OPERATORS else "float"


def _base_name(name: str) -> str:
    """Return the name that a fusion or a layout change began with ("matmul_3/MatMulAddFusion", "conv_token_1")."""
    return _SUFFIX.sub("", name)


def _qualified(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _bare(name: str) -> str:
    return name.rpartition("::")[2]
