"""AWQ's channel factors (arXiv 2306.00978) worked into a graph: into what makes a product's input, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.editing import Editor
from passes.matching import constant_tensor, input_at, integer, is_op, other_readers, rank_of
from passes.quantize.moments import statistics_of
from passes.quantize.weight_only.awq import LEAST_GAIN, channel_factors
from passes.spill_file import SpillFile

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.quantize.weight_only.blocks import Floats, Grid
    from passes.quantize.weight_only.sites import Site
    from passes.quantize.weight_only.statistics import InputStatistics

RULE = "scale-channels"


def scale_channels(
    model: ir.Model,
    sites: Sequence[Site],
    grid_of: Callable[[Site], Grid | None],
    moments: Mapping[str, InputStatistics],
    recorder: Recorder,
) -> None:
    """Divide products' inputs by channel, and multiply the weights' rows, where that lowers the error of rounding them.

    In real numbers nothing changes. The division goes into the scale of the norm before, into a constant factor, or
    into the columns of the weights before; where there is none, or something else reads the input as well, it is
    refused. `grid_of` tells the grid that a weight will be rounded on, None for one that stays in float. Factors stay
    with the input's value, where `statistics_of` finds them.
    """
    scaling = _Scaling(Editor(model), {use.node: site for site in sites for use in site.uses}, SpillFile())
    for source, reading in _by_source(sites).items():
        grids = [grid_of(site) for site in reading]
        grid = next((grid for grid in grids if grid is not None), None)
        statistics = None if grid is None else statistics_of(source, moments)
        if grid is None or statistics is None:
            continue
        node = reading[0].uses[0].node
        reason = _unscalable(source, reading, grids) or scaling.obstacle(source, reading[0].rows)
        if reason:
            recorder.refuse(node, f"channels of '{source.name}' are not scaled: {reason}", RULE)
            continue
        found = channel_factors([_rows(site) for site in reading], grid, statistics)
        if found.gain < LEAST_GAIN:
            recorder.refuse(node, f"scaling the channels of '{source.name}' would not lower the error by 2%", RULE)
            continue
        if not recorder.may_apply(node, RULE):
            return
        scaling.divide(source, found.factors)
        for site in reading:
            scaling.multiply_rows(site, found.factors)
        source.meta["channel_factors"] = found.factors


def _by_source(sites: Sequence[Site]) -> dict[ir.Value, list[Site]]:
    found: dict[ir.Value, list[Site]] = {}
    for site in sites:
        for use in site.uses:
            if use.source is not None:
                found.setdefault(use.source, []).append(site)
    return found


def _unscalable(source: ir.Value, reading: Sequence[Site], grids: Sequence[Grid | None]) -> str:
    """Return why the weights that read `source` can't take the factors, or nothing."""
    for site, grid in zip(reading, grids, strict=True):
        if len(site.uses) > 1:
            return f"the weight '{site.value.name}' has several readers"
        if grid is None:
            return f"the weight '{site.value.name}' that reads it stays in float"
    return other_readers(source, *(use.node for site in reading for use in site.uses))


@dataclass(frozen=True, slots=True)
class _Scaling:
    """Changes constants; `sites` tells, by the node that reads it, how each weight lies."""

    editor: Editor
    sites: Mapping[ir.Node, Site]
    file: SpillFile

    def obstacle(self, value: ir.Value, channels: int) -> str:
        """Return why `value` can't be divided by channel where it is made, or nothing."""
        node = value.producer()
        if node is None:
            return "it is an input of the graph"
        if is_op(node, "RMSNormalization", "LayerNormalization"):
            axis, rank = integer(node, "axis", -1), rank_of(node.inputs[0])
            if axis != -1 and (rank is None or axis != rank - 1):
                return "the norm before it runs over several axes"
            constants = [operand for operand in node.inputs[1:] if operand is not None]
            return "" if all(map(constant_tensor, constants)) else "the norm before it has a computed scale"
        if is_op(node, "Mul"):
            reasons = [self._operand_obstacle(operand, channels) for operand in node.inputs]
            return "" if "" in reasons else "neither factor of the product before it is constant or a weight's product"
        if is_op(node, "Relu"):
            return self._operand_obstacle(node.inputs[0], channels)
        return self._columns_obstacle(node, channels)

    def _operand_obstacle(self, value: ir.Value | None, channels: int) -> str:
        if value is None:
            return "it is left out"
        if constant_tensor(value) is not None:
            return ""
        node = value.producer()
        if node is None or len(value.uses()) != 1 or value.is_graph_output():
            return f"'{value.name}' is read elsewhere"
        return self._columns_obstacle(node, channels)

    def _columns_obstacle(self, node: ir.Node, channels: int) -> str:
        site = self.sites.get(node)
        if site is None or is_op(node, "Gather") or len(site.uses) > 1 or site.columns != channels:
            return f"it is made by {node.op_type}, into which no division can be worked"
        if site.other is not None or site.value.is_graph_output():
            return f"the weight '{site.value.name}' before it is read elsewhere"
        bias = input_at(node, 2)
        return "" if bias is None or constant_tensor(bias) is not None else "the bias before it is computed"

    def divide(self, value: ir.Value, factors: Floats) -> None:
        """Divide the channels of `value`, which has no obstacle, where it is made."""
        node = value.producer()
        assert node is not None
        if is_op(node, "RMSNormalization", "LayerNormalization"):
            for index in range(1, len(node.inputs)):
                self._divide_constant(node, index, factors)
        elif is_op(node, "Mul", "Relu"):
            index = [self._operand_obstacle(operand, factors.size) for operand in node.inputs].index("")
            operand = node.inputs[index]
            assert operand is not None
            maker = operand.producer()
            if constant_tensor(operand) is not None:
                self._divide_constant(node, index, factors)
            else:
                assert maker is not None
                self._divide_columns(maker, factors)
        else:
            self._divide_columns(node, factors)

    def multiply_rows(self, site: Site, factors: Floats) -> None:
        self._write(site, factors[:, None] if site.axis == 0 else factors[None, :])

    def _divide_columns(self, node: ir.Node, factors: Floats) -> None:
        site = self.sites[node]
        multiplier = np.asarray(1 / factors, np.float32)
        self._write(site, multiplier[None, :] if site.axis == 0 else multiplier[:, None])
        if input_at(node, 2) is not None:
            self._divide_constant(node, 2, factors)

    def _divide_constant(self, node: ir.Node, index: int, factors: Floats) -> None:
        value = node.inputs[index]
        tensor = constant_tensor(value)
        if value is None or tensor is None:
            return
        array = np.asarray(tensor.numpy())
        divided = (array.astype(np.float32) / factors).astype(array.dtype)
        node.replace_input_with(index, self.editor.constant(divided, f"{value.name}_scaled"))
        if not value.uses() and value.name in self.editor.model.graph.initializers:
            del self.editor.model.graph.initializers[str(value.name)]  # a runtime that is handed it refuses it unread

    def _write(self, site: Site, multiplier: Floats) -> None:
        """Multiply a weight, which moves to a file, as all of a model's would not fit memory."""
        array = np.asarray(site.tensor.numpy())
        scaled = (array.astype(np.float32) * multiplier).astype(array.dtype)
        site.tensor = self.file.tensor(scaled, site.tensor.dtype, array.shape, str(site.value.name))
        maker = site.value.producer()
        if maker is None:
            site.value.const_value = site.tensor
            return
        import onnx_ir as ir

        maker.attributes.clear()
        maker.attributes.add(ir.AttrTensor("value", site.tensor))


def _rows(site: Site) -> Floats:
    """Return the weight as [K, N]."""
    array = np.asarray(site.tensor.numpy(), np.float32)
    return array if site.axis == 0 else array.T
