"""Weights as blocks of 4- or 8-bit codes, in standard ONNX, while activations stay in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.errors import UsageError
from passes.matching import opset_of
from passes.quantize.propagation import Lookup, statistics_by_value
from passes.quantize.weight_only.blocks import PER_CHANNEL, BlockCodes, Grid, fitting_group
from passes.quantize.weight_only.channel_scaling import scale_channels
from passes.quantize.weight_only.methods import METHODS
from passes.quantize.weight_only.reading import panels
from passes.quantize.weight_only.sites import Site, find_sites
from passes.quantize.weight_only.storage import code_type, stored_bytes
from passes.spill_file import SpillFile

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.quantize.weight_only.statistics import InputStatistics

_LEAST_OPSET = 21
"""DequantizeLinear has blocks, and INT4 and UINT4, from this opset on."""


_GREATEST = 1e30
"""Sums over a block of larger numbers overflow float32."""


class _Unfit(Exception):
    """This weight can't be quantized, and why."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store constant matrices as 4- or 8-bit codes behind a DequantizeLinear of blocks; everything computes in float.

    The right operand of MatMul and Gemm, also through a Transpose, and the table of a Gather, each stored once however
    many nodes read it (tied embeddings). Weights are read some columns at a time and the codes go to a temporary file,
    so that a model larger than memory can be quantized.
    bits, group, symmetric: the grid; group is how many entries of a column share a scale, 0 for all of them. Where it
    does not divide the column, the largest half, quarter, ... that does takes its place, then the whole column; the
    event says so. symmetric=None is asymmetric, unless the runtime takes no zero points.
    method: a name of METHODS; some need samples.
    head, embeddings: bits of the last products and of Gather's tables, whose rounding errors show most; 0 leaves them
    in float. A matrix that is both takes `head`, and stays in float where the runtime keeps no integer table.
    Refuses, with the reason, weights that are not constant, tiny, not finite, of rank 3, read along both axes or by
    another operator, and what the runtime does not keep as integers.
    """

    name: ClassVar[str] = "quantize-weights"
    optional: ClassVar[bool] = False

    bits: int = 4
    group: int = 128
    symmetric: bool | None = None
    method: str = "rtn"
    head: int = 8
    embeddings: int = 8

    def __post_init__(self) -> None:
        for option, known in (("bits", (4, 8)), ("head", (0, 4, 8)), ("embeddings", (0, 4, 8))):
            if getattr(self, option) not in known:
                raise ValueError(f"{option} is {getattr(self, option)}; it is one of {', '.join(map(str, known))}")
        if self.group != PER_CHANNEL and (self.group < 16 or self.group & (self.group - 1)):
            raise ValueError(f"group is {self.group}; it is 0 for one scale a column, or a power of two from 16 on")
        if self.method not in METHODS:
            raise ValueError(f"there is no method '{self.method}'; methods: {', '.join(METHODS)}")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Quantize all graphs of the model; raises UsageError below opset 21, or where the runtime takes no codes."""
        recorder = context.recorder(self.name)
        if opset_of(model) < _LEAST_OPSET:
            raise UsageError(
                f"The graph has opset {opset_of(model)}; weights in blocks need {_LEAST_OPSET}.",
                hint="Convert it first: upgrade-opset.",
            )
        sites, near = find_sites(model)
        for node, reason in near:
            recorder.refuse(node, reason)
        method = METHODS[self.method]
        if method.scales_channels:
            scale_channels(model, sites, lambda site: self._grid_or_none(site, context), context.moments, recorder)
        statistics = statistics_by_value(context.moments, propagates=method.propagates)
        order = {node: index for graph in model.graphs() for index, node in enumerate(graph)}
        editor, spill = Editor(model), SpillFile()
        for site in sorted(sites, key=lambda site: _first_product(site, order)) if method.propagates else sites:
            reason = site.problem()
            try:
                if reason:
                    raise _Unfit(reason)
                grid = self._grid(site, context)
                if context.budget.is_spent:
                    continue
                known = self._statistics(site, statistics, has_samples=bool(context.moments))
                quantized = _quantized(site, grid, self.method, known)
                if recorder.may_apply(site.uses[0].node, self._rule(site, grid, known)):
                    _write(site, quantized, editor, spill, order)
            except _Unfit as error:
                recorder.refuse(site.uses[0].node, str(error))
        return recorder.result()

    def _grid_or_none(self, site: Site, context: Context) -> Grid | None:
        """Return the grid of a weight that will be quantized, None of one that stays in float."""
        try:
            return None if site.problem() else self._grid(site, context)
        except _Unfit:
            return None

    def _grid(self, site: Site, context: Context) -> Grid:
        support = context.capabilities.weight_only
        bits = self.head if "head" in site.roles else self.embeddings if "embedding" in site.roles else self.bits
        if not bits:
            raise _Unfit(f"the option {'head' if 'head' in site.roles else 'embeddings'} leaves it in float")
        if "embedding" in site.roles and bits not in support.embedding_bits:
            raise _Unfit(f"{context.capabilities.name} keeps no table of {bits}-bit codes, and it is read as one")
        if bits not in support.bits:
            raise _Unfit(f"{context.capabilities.name} keeps no weights of {bits} bits")
        symmetric = self.symmetric if self.symmetric is not None else not support.zero_points
        if not symmetric and not support.zero_points:
            raise _Unfit(f"{context.capabilities.name} takes no zero points")
        has_rows = "embedding" in site.roles and not support.embedding_blocks
        has_rows = has_rows or bits not in support.block_bits
        group = PER_CHANNEL if has_rows else fitting_group(self.group, site.rows)
        if group == PER_CHANNEL and bits not in support.channel_bits:
            reason = "is asked for" if self.group == PER_CHANNEL else f"is all that {site.rows} entries allow"
            raise _Unfit(
                f"{context.capabilities.name} keeps no {bits}-bit codes with one scale a column, which {reason}"
            )
        return Grid(4 if bits == 4 else 8, group, symmetric, negative_scales=support.negative_scales)

    def _rule(self, site: Site, grid: Grid, known: InputStatistics | None) -> str:
        """Return what the event calls the rewrite: "int4 group 32 instead of 128"."""
        parts = [f"int{grid.bits}", _group_text(grid.group)]
        if grid.group != self.group and self.group < site.rows and site.rows % self.group:
            parts.append(f"instead of {self.group}, which does not divide {site.rows}")
        source = _first_source(site)
        if METHODS[self.method].needs_samples and known is None and source is not None:
            parts.append(f"to nearest, without statistics of '{source.name}'")
        return " ".join(parts)

    def _statistics(self, site: Site, statistics: Lookup, *, has_samples: bool) -> InputStatistics | None:
        """Return those of the first input that has any; None where the method needs none, or for a table alone.

        Samples tell nothing of what is inside subgraphs, nor of inputs with too many channels: those weights are
        rounded to nearest.
        """
        if not METHODS[self.method].needs_samples:
            return None
        sources = [use.source for use in site.uses if use.source is not None]
        found = next((known for known in map(statistics, sources) if known is not None), None)
        if found is None and sources and not has_samples:
            raise UsageError(
                f"The method '{self.method}' needs samples, and there are none of what '{site.value.name}' multiplies.",
                hint="Build with samples: graphwright build ... --calibration FILE; or take method=rtn or hqq.",
            )
        return found


def _first_source(site: Site) -> ir.Value | None:
    return next((use.source for use in site.uses if use.source is not None), None)


def _first_product(site: Site, order: Mapping[ir.Node, int]) -> int:
    """Return the place of the first product, by which weights are taken where each sees what those before it did."""
    return min((order[use.node] for use in site.uses if use.source is not None), default=-1)


def _group_text(group: int) -> str:
    return "per channel" if group == PER_CHANNEL else f"group {group}"


def _quantized(site: Site, grid: Grid, method: str, statistics: InputStatistics | None) -> BlockCodes:
    """Return the whole weight's codes, in the weight's own layout; only a panel of it is held in float."""
    chosen = METHODS[method] if statistics is not None or not METHODS[method].needs_samples else METHODS["rtn"]
    quantizer = chosen.start(grid, statistics)
    rows, columns, count = site.rows, site.columns, grid.count(site.rows)
    codes = np.empty((rows, columns) if site.axis == 0 else (columns, rows), np.uint8)
    by_column = codes if site.axis == 0 else codes.T
    scales = np.empty((count, columns), np.float32)
    zeros = None if grid.symmetric else np.empty((count, columns), np.uint8)
    for start, panel in panels(site.tensor, site.axis):
        if not np.abs(panel).max(initial=0.0) <= _GREATEST:  # so for NaN too
            raise _Unfit(f"its weight '{site.value.name}' has entries that are not finite, or beyond {_GREATEST:g}")
        part = quantizer(panel)
        place = slice(start, start + panel.shape[1])
        by_column[:, place], scales[:, place] = part.codes, part.scales
        if zeros is not None and part.zero_points is not None:
            zeros[:, place] = part.zero_points
    return BlockCodes(grid, by_column, scales, zeros)


def _write(site: Site, quantized: BlockCodes, editor: Editor, spill: SpillFile, order: Mapping[ir.Node, int]) -> None:
    """Put one DequantizeLinear in front of the first reader, and let all read it."""
    import onnx_ir as ir

    grid, name = quantized.grid, str(site.value.name)
    kind = code_type(grid)
    shape = site.tensor.shape.numpy()
    scales = _in_layout(quantized.scales, site)
    scale_type = site.tensor.dtype
    is_flat = grid.group == PER_CHANNEL  # the standard form for one scale a column is a vector along the other axis
    scales = scales.reshape(-1) if is_flat else scales
    operands = [
        _stored(editor, spill, f"{name}_codes", stored_bytes(_in_layout(quantized.codes, site), grid), kind, shape),
        _stored(editor, spill, f"{name}_scales", scales.astype(scale_type.numpy()), scale_type, scales.shape),
    ]
    if quantized.zero_points is not None:
        zeros = _in_layout(quantized.zero_points, site)
        zeros = zeros.reshape(-1) if is_flat else zeros
        content = stored_bytes(zeros, replace(grid, symmetric=False))
        operands.append(_stored(editor, spill, f"{name}_zero_points", content, kind, zeros.shape))
    attributes = {"axis": 1 - site.axis} if is_flat else {"axis": site.axis, "block_size": grid.group}
    first = min({reader for reader, _ in site.value.uses()}, key=lambda reader: order[reader])
    real = editor.insert(first, "DequantizeLinear", operands, name=f"{name}_dequantized", attributes=attributes)
    real.type, real.shape = ir.TensorType(scale_type), ir.Shape(shape)
    for reader, index in list(site.value.uses()):
        reader.replace_input_with(index, real)
    _drop(site.value)


def _in_layout(array: npt.NDArray[Any], site: Site) -> npt.NDArray[Any]:
    return array if site.axis == 0 else array.T


def _stored(
    editor: Editor, spill: SpillFile, base: str, array: np.ndarray, kind: ir.DataType, shape: Sequence[int]
) -> ir.Value:
    import onnx_ir as ir

    name = editor.fresh_name(base)
    tensor = spill.tensor(array, kind, shape, name)
    value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape), const_value=tensor)
    editor.model.graph.register_initializer(value)
    return value


def _drop(value: ir.Value) -> None:
    """Remove a constant that no node reads any more."""
    producer = value.producer()
    if producer is not None and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    elif value.graph is not None and value.name in value.graph.initializers:
        del value.graph.initializers[str(value.name)]
