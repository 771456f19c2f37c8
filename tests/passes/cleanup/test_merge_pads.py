from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.cleanup.merge_pads import MergePads
from passes.expand.extract_pads import ExtractPads
from passes.matching import constant_integers, dims_of, integer, integers
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

CONSTANTS = """
    around = Constant <value = int64[8] {0, 0, 1, 0, 0, 0, 2, 1}> ()
    some = Constant <value = int64[4] {1, 0, 2, 1}> ()
    axes = Constant <value = int64[2] {2, -1}> ()
    cut = Constant <value = int64[8] {0, 0, -1, 0, 0, 0, 2, 1}> ()
    wide = Constant <value = int64[8] {0, 0, 2, 0, 0, 0, 2, 1}> ()
    channels = Constant <value = int64[8] {0, 1, 1, 0, 0, 0, 2, 1}> ()
    zero = Constant <value = float {0.0}> ()
    one = Constant <value = float {1.0}> ()
    none = Constant <value = int64 {0}> ()
"""
CONV = "y = Conv <kernel_shape = [3, 3], pads = [1, 1, 0, 0]> (p, w)"


def _model(body: str, outputs: str = "float[N,C,H,W] y") -> ir.Model:
    channels = 2 if "Conv" in body else 3
    text = (
        f"""g (float[N,{channels},6,7] x, float[4,2,3,3] w, float[1] lowest) => ({outputs}) {{ {CONSTANTS} {body} }}"""
    )
    return add_weights(graph_from(text), w=random_array(4, 2, 3, 3), lowest=np.array([-np.inf], np.float32))


FOLDED = {
    "conv": (f"p = Pad (x, around) {CONV}", "Conv", (2, 1, 2, 1)),
    "conv by axes": (f"p = Pad (x, some, zero, axes) {CONV}", "Conv", (2, 1, 2, 1)),
    "conv valid": ('p = Pad (x, around) y = Conv <auto_pad = "VALID"> (p, w)', "Conv", (1, 0, 2, 1)),
    "average": ("p = Pad (x, around) y = AveragePool <kernel_shape = [3, 3]> (p)", "AveragePool", (1, 0, 2, 1)),
    "average counting": (
        "p = Pad (x, around) y = AveragePool <kernel_shape = [4, 4], pads = [1, 1, 1, 1], count_include_pad = 1> (p)",
        "AveragePool",
        (2, 1, 3, 2),
    ),
    "max": ("p = Pad (x, around, lowest) y = MaxPool <kernel_shape = [3, 3]> (p)", "MaxPool", (1, 0, 2, 1)),
}


@pytest.mark.parametrize(("body", "op_type", "pads"), FOLDED.values(), ids=FOLDED)
def test_the_reader_pads_by_itself(body: str, op_type: str, pads: tuple[int, ...]) -> None:
    after, _ = rewrite(_model(body), MergePads())
    assert [op for op in operators(after) if op != "Constant"] == [op_type]
    node = list(after.graph)[-1]
    assert integers(node, "pads") == pads
    assert op_type != "AveragePool" or integer(node, "count_include_pad", 0) == 1
    assert rewrite(after, MergePads())[1].applied == ()


def test_zeros_around_what_is_never_negative_are_the_padding_of_a_max_pool() -> None:
    body = "r = Relu (x) p = Pad (r, around) y = MaxPool <kernel_shape = [3, 3]> (p)"
    after, _ = rewrite(_model(body), MergePads())
    assert operators(after)[-2:] == ["Relu", "MaxPool"]


def test_every_reader_takes_the_padding() -> None:
    body = f"p = Pad (x, around) {CONV} z = Conv (p, w)"
    after, _ = rewrite(_model(body, "float[N,C,H,W] y, float[N,C,H2,W2] z"), MergePads())
    assert [op for op in operators(after) if op != "Constant"] == ["Conv", "Conv"]


REFUSED = {
    "other reader": (f"p = Pad (x, around) {CONV} z = Relu (p)", "also feeds"),
    "reflect": (f'p = Pad <mode = "reflect"> (x, around) {CONV}', "it pads by reflect"),
    "channels": ("p = Pad (x, channels) y = MaxPool <kernel_shape = [3, 3]> (p)", "channels"),
    "number": (f"p = Pad (x, around, one) {CONV}", "pads zeros, not 1"),
    "cut": (f"p = Pad (x, cut) {CONV}", "cuts off"),
    "same": ('p = Pad (x, around) y = Conv <auto_pad = "SAME_UPPER"> (p, w)', "SAME_UPPER"),
    "whole window": ("p = Pad (x, wide) y = AveragePool <kernel_shape = [2, 3]> (p)", "a whole window"),
    "ceil": ("p = Pad (x, around) y = AveragePool <kernel_shape = [3, 3], ceil_mode = 1> (p)", "rounds"),
    "uncounted": (
        "p = Pad (x, around) y = AveragePool <kernel_shape = [4, 4], pads = [1, 1, 1, 1]> (p)",
        "does not count",
    ),
    "average number": ("p = Pad (x, around, one) y = AveragePool <kernel_shape = [3, 3]> (p)", "pads zeros"),
    "max of signed": ("p = Pad (x, around) y = MaxPool <kernel_shape = [3, 3]> (p)", "pads -inf, not 0"),
    "dilated": (
        "r = Relu (x) p = Pad (r, around) y = MaxPool <kernel_shape = [3, 3], dilations = [2, 1]> (p)",
        "dilated",
    ),
    "indices": (
        "p = Pad (x, around, lowest) y, i = MaxPool <kernel_shape = [3, 3]> (p) z = Cast <to = 1> (i)",
        "indices",
    ),
}


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(body: str, reason: str) -> None:
    outputs = "float[N,C,H,W] y, float[N,C2,H2,W2] z" if "z = " in body else "float[N,C,H,W] y"
    _, result = rewrite(_model(body, outputs), MergePads())
    assert not result.applied
    assert any(reason in why for why in reasons(result)), reasons(result)


def test_a_padded_output_of_the_graph_stays() -> None:
    _, result = rewrite(_model(f"p = Pad (x, around) {CONV}", "float[N,C,H,W] y, float[N,C2,H2,W2] p"), MergePads())
    assert not result.applied
    assert "output of the graph" in reasons(result)[0]


def test_two_pads_are_one() -> None:
    after, result = rewrite(_model("p = Pad (x, around) y = Pad (p, some, zero, axes)"), MergePads(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Pad"]
    assert [event.rule for event in result.applied] == ["pad-pad"]
    edges = 'p = Pad <mode = "edge"> (x, around) y = Pad <mode = "edge"> (p, wide)'
    after, _ = rewrite(_model(edges), MergePads(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Pad"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p = Pad (x, around) y = Pad (p, wide, one)", "another number"),
        ("p = Pad (x, around) y = Pad (p, cut)", "cuts off"),
        ('p = Pad <mode = "reflect"> (x, around) y = Pad <mode = "reflect"> (p, around)', "reflect"),
    ],
)
def test_two_pads_stay(body: str, reason: str) -> None:
    _, result = rewrite(_model(body), MergePads())
    assert not result.applied
    assert reason in reasons(result)[0]


LINE_CONSTANTS = """
    all_axes = Constant <value = int64[8] {0, 0, 3, 0, 0, 0, 4, 0}> ()
    on_line = Constant <value = int64[2] {3, 4}> ()
    line = Constant <value = int64[1] {2}> ()
    far = Constant <value = int64[8] {0, 0, 16, 0, 0, 0, 16, 0}> ()
"""
LINE = "g (float[N,4,16,1] x, float[6,4,8,1] w) => (float[N,6,A,B] y)"


def _line_model(body: str, *, opset: int = 23) -> ir.Model:
    model = graph_from(f"{LINE} {{ {LINE_CONSTANTS} {body} }}", opset=opset)
    return add_weights(model, w=random_array(6, 4, 8, 1))


def _without_constants(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


@pytest.mark.parametrize(
    ("body", "pads"),
    [
        ("p = Pad (x, all_axes) y = Conv (p, w)", [3, 4]),
        ('p = Pad (x, all_axes) y = Conv <auto_pad = "VALID"> (p, w)', [3, 4]),
        ("p = Pad (x, all_axes) y = Conv <pads = [1, 0, 0, 0]> (p, w)", [4, 4]),
        ('p = Pad (x, on_line, "", line) y = Conv <pads = [1, 0, 0, 0]> (p, w)', [4, 4]),
    ],
)
def test_a_pad_before_a_line_names_its_axis_and_does_all_the_padding(body: str, pads: list[int]) -> None:
    after, result = rewrite(_line_model(body), MergePads())
    assert [event.rule for event in result.applied] == ["pad-names-axes"]
    assert _without_constants(after) == ["Pad", "Conv"]
    pad, conv = list(after.graph)[-2:]
    assert constant_integers(pad.inputs[1]) == pads
    assert constant_integers(pad.inputs[3]) == [2]
    assert dims_of(pad.outputs[0]) == ("N", 4, 16 + sum(pads), 1)
    assert not any(integers(conv, "pads") or ())
    again, result = rewrite(after, MergePads())
    assert not result.applied
    assert reasons(result) == ["ONNX Runtime is faster when a Pad does a long kernel's padding"]
    assert rewrite(again, ExtractPads())[1].applied == ()


def test_what_extract_pads_takes_out_stays_out() -> None:
    after, _ = rewrite(_line_model("y = Conv <pads = [3, 0, 4, 0]> (x, w)"), ExtractPads())
    again, result = rewrite(after, MergePads())
    assert _without_constants(again) == ["Pad", "Conv"]
    assert not result.applied


def test_a_pad_of_two_lines_stays_once() -> None:
    model = _line_model(
        "p = Pad (x, all_axes) a = Conv (p, w) b = Conv <strides = [2, 1]> (p, w) y = Concat <axis = 2> (a, b)"
    )
    after, _ = rewrite(model, MergePads())
    assert _without_constants(after) == ["Pad", "Conv", "Conv", "Concat"]
    assert rewrite(after, MergePads())[1].applied == ()


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("p = Pad (x, far) y = Conv <dilations = [2, 1]> (p, w)", 23),  # more taps on zeros than on elements
        ("p = Pad (x, all_axes) y = Conv (p, w)", 17),  # a Pad cannot name its axes
    ],
)
def test_a_line_that_extract_pads_leaves_alone_is_padded_by_its_conv(body: str, opset: int) -> None:
    after, _ = rewrite(_line_model(body, opset=opset), MergePads())
    assert _without_constants(after) == ["Conv"]
    assert rewrite(after, ExtractPads())[1].applied == ()
