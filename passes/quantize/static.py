"""Static int8: the pass that turns calibrated ranges into a Q/DQ graph for one runtime."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, node_label
from passes.errors import UsageError
from passes.quantize.insertion import write
from passes.quantize.placement import place
from passes.quantize.scheme import Granularity, check_ranges, scheme_from_capabilities

if TYPE_CHECKING:
    import onnx_ir as ir

_LEAST_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis from this opset on."""


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantize operators to int8 with explicit Q/DQ, as the context's runtime executes them.

    Weights become symmetric int8 initializers behind DequantizeLinear; activations get QuantizeLinear and
    DequantizeLinear with their calibrated scales. An operator stays in float, with the reason, when an input has no
    range, its weight is computed, tiny or not finite, or the runtime has no int8 kernel for how it is used.
    granularity: one weight scale a channel, or one a tensor. symmetric: None takes what the runtime runs best.
    smooth: multiply outlier channels out of a matrix product's input and into its weight, where that lowers the error.
    correct_bias: take the mean shift that rounded weights cause off the bias.
    least_sqnr_db: a matrix product whose typical results are estimated closer to their error than this stays in float.
    keep: operators that stay in float, by node name; by the first output's where the node has none.
    """

    name: ClassVar[str] = "quantize-static"
    optional: ClassVar[bool] = False

    granularity: Granularity = "channel"
    symmetric: bool | None = None
    smooth: bool = True
    correct_bias: bool = True
    least_sqnr_db: float = 18.0
    keep: tuple[str, ...] = ()

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Quantize the main graph; UsageError without ranges, int8 support, opset 13, or with an unknown `keep`."""
        recorder = context.recorder(self.name)
        scheme = scheme_from_capabilities(
            context.capabilities,
            granularity=self.granularity,
            symmetric=self.symmetric,
            smooth=self.smooth,
            correct_bias=self.correct_bias,
            least_sqnr_db=self.least_sqnr_db,
        )
        check_ranges(model, context, name=self.name, least_opset=_LEAST_OPSET)
        _check_known(model.graph, self.keep)
        if any(value.dtype is None for node in model.graph for value in node.outputs):
            from onnx_ir.passes.common import ShapeInferencePass

            ShapeInferencePass()(model)  # a half-precision graph is told by its types
        placement = place(model.graph, scheme, context.ranges, recorder, keep=frozenset(self.keep))
        write(model.graph, placement, scheme, context.ranges, recorder)
        return recorder.result()


def _check_known(graph: ir.Graph, names: Sequence[str]) -> None:
    """Raise UsageError for a name that no node has: what was to be kept would be quantized unseen."""
    if not names:
        return
    known = {node_label(node) for node in graph}
    unknown = [name for name in names if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "'graphwright sensitivity' lists the operators."
        raise UsageError(f"There is no node '{unknown[0]}' that could be kept in float.", hint=hint)
