"""Where Q/DQ pairs go: which operators run in int8, and which of their values get a scale."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.base import node_label
from passes.quantize.smoothing import typical_sqnr_db
from passes.quantize.weighted import Weight, is_constant, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.quantize.ranges import ActivationRange
    from passes.quantize.scheme import QuantScheme

    Reader = tuple[ir.Node, int]

KEPT = "kept by request"
"""Why an operator that the user, or a search, named stays in float."""


@dataclass(slots=True)
class Placement:
    """What gets quantized.

    operators: the int8 operators, in graph order.
    readers: for each quantized value, the operator inputs that read it dequantized.
    scale_source: for each quantized value, the one whose scale it has: itself, unless an operator that only moves
    integers (MaxPool, Reshape) carries the scale through.
    seen_through: for each scale source, the values in whose form it is read: their ranges make the scale. What a
    MaxPool throws away needs no codes, and clipping it commutes with taking the maximum; unless a reader outside the
    int8 chains sees it before the MaxPool does.
    """

    operators: list[ir.Node] = field(default_factory=list)
    readers: dict[ir.Value, dict[Reader, None]] = field(default_factory=dict)
    scale_source: dict[ir.Value, ir.Value] = field(default_factory=dict)
    seen_through: dict[ir.Value, dict[ir.Value, None]] = field(default_factory=dict)

    def quantize(self, value: ir.Value, source: ir.Value) -> dict[Reader, None]:
        """Mark `value` as quantized with the scale of `source` and return its readers, to be added to."""
        self.scale_source.setdefault(value, source)
        return self.readers.setdefault(value, {})


def place(
    graph: ir.Graph,
    scheme: QuantScheme,
    ranges: Mapping[str, ActivationRange],
    recorder: Recorder,
    *,
    keep: Collection[str] = (),
) -> Placement:
    """Return the placement for `graph`; records a refusal for each int8 operator that stays in float.

    `keep` names the operators that shall.
    """
    rules = _Rules(graph, scheme, ranges)
    chosen = _chosen_operators(graph, rules, recorder, keep)
    placement = Placement(operators=[node for node in graph if node in chosen])
    crossed: dict[ir.Value, dict[Reader, None]] = {}
    for node in placement.operators:
        if not recorder.may_apply(node, f"int8 {node.op_type}"):
            placement.operators = placement.operators[: placement.operators.index(node)]
            break
        for index, value in rules.data_inputs(node):
            _quantize_input(placement, rules, (node, index), value, crossed)
        end = rules.fused_end(node)
        if rules.needs_quantized_output(node):
            placement.quantize(end, end)
    _cover_other_readers(placement, rules, crossed)
    if scheme.support.quantize_outputs:
        _read_everywhere(placement, rules)
    return placement


def _quantize_input(
    placement: Placement, rules: _Rules, reader: Reader, value: ir.Value, crossed: dict[ir.Value, dict[Reader, None]]
) -> None:
    """Quantize at the root of the integer-moving chain above `value`, so that the chain too runs on integers.

    Adds to `crossed` the values between root and `value`, each with the movers that lead to an int8 operator.
    """
    source = rules.root(value)
    placement.seen_through.setdefault(source, {})[value if str(value.name) in rules.ranges else source] = None
    while value is not source:
        if rules.scheme.support.quantize_outputs:
            placement.quantize(value, source)[reader] = None
        mover = value.producer()
        assert mover is not None
        moved = mover.inputs[0]
        assert moved is not None
        reader, value = (mover, 0), moved
        if value is not source:
            crossed.setdefault(value, {})[reader] = None
    placement.quantize(value, source)[reader] = None


def _cover_other_readers(
    placement: Placement, rules: _Rules, crossed: Mapping[ir.Value, Mapping[Reader, None]]
) -> None:
    """Let the scale cover a value in mid-chain that something else reads too: a float operator, a graph output."""
    for value, movers in crossed.items():
        uses = {(use.node, use.idx) for use in value.uses()}
        if value.is_graph_output() or uses - set(movers):
            placement.seen_through.setdefault(rules.root(value), {})[value] = None


def _read_everywhere(placement: Placement, rules: _Rules) -> None:
    """Let every reader of an int8 operator's output read it dequantized: the operator fuses with Q only then."""
    ends = {rules.fused_end(node) for node in placement.operators}
    for value, readers in placement.readers.items():
        if value in ends:
            others = set(rules.uses(value)) - set(readers)
            if others:
                placement.seen_through.setdefault(value, {})[value] = None
            readers.update(dict.fromkeys(rules.uses(value)))


def _chosen_operators(graph: ir.Graph, rules: _Rules, recorder: Recorder, keep: Collection[str]) -> set[ir.Node]:
    chosen: dict[ir.Node, None] = {}
    for node in graph:
        if node.op_type not in rules.scheme.support.operators or node.domain not in ("", "ai.onnx"):
            continue
        reason = KEPT if keep and node_label(node) in keep else rules.obstacle(node)
        if reason and node.op_type not in _WEIGHTED and any(value and is_constant(value) for value in node.inputs):
            continue  # adding a bias or a position is no near match
        if reason:
            recorder.refuse(node, reason, f"int8 {node.op_type}")
        else:
            chosen[node] = None
    while lonely := [node for node in chosen if not rules.is_worthwhile(node, chosen)]:
        for node in lonely:
            recorder.refuse(
                node, "no int8 operator reads its result: the conversion costs more", f"int8 {node.op_type}"
            )
            del chosen[node]
    return set(chosen)


class _Rules:
    """The placement rules of one scheme over one graph."""

    def __init__(self, graph: ir.Graph, scheme: QuantScheme, ranges: Mapping[str, ActivationRange]) -> None:
        self.graph = graph
        self.scheme = scheme
        self.ranges = ranges

    def uses(self, value: ir.Value) -> Iterator[Reader]:
        """Yield the readers of `value` in the main graph."""
        for use in value.uses():
            if use.node.graph is self.graph:
                yield use.node, use.idx

    def data_inputs(self, node: ir.Node) -> list[tuple[int, ir.Value]]:
        """Return the inputs that are activations, with their positions."""
        weight = weight_of(node)
        if weight is not None:
            return [(index, value) for index, value in enumerate(node.inputs[:2]) if index != weight.index and value]
        count = 2 if node.op_type in ("MatMul", "Gemm") else _DATA_INPUTS.get(node.op_type, len(node.inputs))
        return [(index, value) for index, value in enumerate(node.inputs[:count]) if value is not None]

    def is_mover(self, node: ir.Node | None) -> bool:
        support = self.scheme.support
        return (
            node is not None
            and node.graph is self.graph
            and node.op_type in (support.passthrough & MOVERS) - support.float_fused
            and node.domain in ("", "ai.onnx")
        )

    def root(self, value: ir.Value) -> ir.Value:
        """Return the value above `value` that the same integers can stand for."""
        while self.is_mover(value.producer()):
            mover = value.producer()
            assert mover is not None
            above = mover.inputs[0]
            if above is None or is_constant(above) or str(above.name) not in self.ranges:
                break
            value = above
        return value

    def fused_end(self, node: ir.Node) -> ir.Value:
        """Return the value after the float operators that the runtime fuses into `node` (Conv, then Relu)."""
        value = node.outputs[0]
        while not value.is_graph_output():
            readers = list(value.uses())
            if len(readers) != 1 or readers[0].idx != 0 or readers[0].node.graph is not self.graph:
                break
            after = readers[0].node
            if after.op_type not in _UNARY or after.op_type not in self.scheme.support.float_fused:
                break
            value = after.outputs[0]
        return value

    def needs_quantized_output(self, node: ir.Node) -> bool:
        support = self.scheme.support
        return support.quantize_outputs and node.op_type not in support.float_output

    def obstacle(self, node: ir.Node) -> str:
        """Return why `node` must stay in float, or nothing."""
        weight = weight_of(node)
        if weight is None and node.op_type in _WEIGHTED:
            if node.op_type not in ("MatMul", "Gemm"):
                return "its weight is not constant"
            if not self.scheme.support.activation_matmul or node.op_type == "Gemm":
                return "both operands are activations, which this runtime multiplies in float"
        if weight is not None and (problem := weight.problem()):
            return problem
        data = self.data_inputs(node)
        if not data:
            return "its operands are constants"
        for _, value in data:
            if is_constant(value):
                return f"its operand '{value.name}' is a constant"
            if value.dtype is not None and value.dtype.name != "FLOAT":
                return f"its input '{value.name}' is {value.dtype.name.lower()}; int8 starts from float32"
            if str(self.root(value).name) not in self.ranges:
                return f"its input '{value.name}' has no calibrated range"
        if weight is not None and (problem := self._too_noisy(weight)):
            return problem
        if self.needs_quantized_output(node):
            end = self.fused_end(node)
            if end.is_graph_output():
                return f"its result '{end.name}' is a graph output, and the runtime returns only int8 from it"
            if str(end.name) not in self.ranges:
                return f"its result '{end.name}' has no calibrated range"
        return ""

    def _too_noisy(self, weight: Weight) -> str:
        rows = weight.rows()
        source = weight.node.inputs[1 - weight.index]
        covered = self.ranges.get(str(source.name)) if source is not None else None
        result = self.ranges.get(str(weight.node.outputs[0].name))
        if rows is None or covered is None or result is None:
            return ""
        estimate = typical_sqnr_db(covered, rows, result, symmetric=self.scheme.symmetric)
        if estimate >= self.scheme.least_sqnr_db:
            return ""
        peak = max(-covered.observed_low, covered.observed_high)
        return (
            f"outliers in its input (up to {peak:.3g}, typically {covered.typical:.2g})"
            f" would leave its typical results only {estimate:.1f} dB above their error"
        )

    def is_worthwhile(self, node: ir.Node, chosen: Mapping[ir.Node, None]) -> bool:
        """Return whether int8 saves more than it costs: a product with weights, or what feeds int8 operators."""
        if node.op_type in _WEIGHTED:
            return True
        pending: list[ir.Value] = [self.fused_end(node)]
        seen: set[ir.Value] = set()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            for reader, _ in self.uses(value):
                if reader in chosen:
                    return True
                if self.is_mover(reader):
                    pending.append(reader.outputs[0])
        return False


_WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
MOVERS = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather"}) | {
    "Identity",
    "Expand",
    "DepthToSpace",
    "SpaceToDepth",
}
"""Operators whose result holds entries of their first input, unchanged: the same scale fits both."""

_UNARY = frozenset({"Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Elu", "PRelu"})
_DATA_INPUTS = {"AveragePool": 1, "GlobalAveragePool": 1, "ReduceMean": 1, "Resize": 1, "LeakyRelu": 1, "Softmax": 1}
"""Operators whose later inputs are not data."""
