from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.expand.extract_pads import ExtractPads
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite


def line(
    attributes: str, *, shape: str = "N,4,16,1", weight: tuple[int, ...] = (6, 4, 8, 1), opset: int = 23
) -> ir.Model:
    dims = ",".join(map(str, weight))
    model = graph_from(
        f"g (float[{shape}] x, float[{dims}] w) => (float[N,{weight[0]},A,B] y) {{ y = Conv <{attributes}> (x, w) }}",
        opset=opset,
    )
    add_weights(model, w=random_array(*weight))
    return model


@pytest.mark.parametrize(
    ("attributes", "shape", "weight"),
    [
        ("pads = [3, 0, 4, 0]", "N,4,16,1", (6, 4, 8, 1)),
        ("pads = [0, 0, 2, 0]", "N,4,16,1", (6, 4, 3, 1)),
        ("pads = [0, 3, 0, 4]", "N,4,1,9", (6, 4, 1, 8)),
        ("pads = [4, 0, 4, 0], strides = [2, 1], dilations = [2, 1]", "N,4,16,1", (6, 4, 5, 1)),
    ],
)
def test_a_pad_that_names_its_axes_does_the_padding(attributes: str, shape: str, weight: tuple[int, ...]) -> None:
    after, _ = rewrite(line(attributes, shape=shape, weight=weight), ExtractPads())
    assert operators(after) == ["Pad", "Conv"]
    pad, conv = after.graph
    assert len(pad.inputs) == 4
    assert list(conv.attributes["pads"].as_ints()) == [0, 0, 0, 0]
    again, result = rewrite(after, ExtractPads())
    assert operators(again) == ["Pad", "Conv"]
    assert not result.applied


@pytest.mark.parametrize(
    ("attributes", "shape", "weight", "reason"),
    [
        ("pads = [8, 0, 8, 0]", "N,4,4,1", (6, 4, 16, 1), "it would multiply with zeros"),
        ("pads = [0, 1, 0, 1]", "N,4,1,16", (6, 4, 1, 3), "fewer than half"),
        ("pads = [3, 0, 4, 0], group = 4", "N,4,16,1", (4, 1, 8, 1), "it has several groups"),
    ],
)
def test_what_a_pad_would_slow_down_is_refused(
    attributes: str, shape: str, weight: tuple[int, ...], reason: str
) -> None:
    after, result = rewrite(line(attributes, shape=shape, weight=weight), ExtractPads())
    assert operators(after) == ["Conv"]
    assert reasons(result)[0].startswith(reason)


@pytest.mark.parametrize(
    ("attributes", "shape", "weight", "opset"),
    [
        ("pads = [1, 1, 1, 1]", "N,4,16,16", (6, 4, 3, 3), 23),
        ("pads = [3, 0, 4, 0]", "N,4,L,1", (6, 4, 8, 1), 23),
        ("pads = [3, 0, 4, 0]", "N,4,16,1", (6, 4, 8, 1), 17),
        ("pads = [0, 0, 0, 0]", "N,4,16,1", (6, 4, 8, 1), 23),
    ],
)
def test_what_is_no_padded_line_stays(attributes: str, shape: str, weight: tuple[int, ...], opset: int) -> None:
    after, result = rewrite(line(attributes, shape=shape, weight=weight, opset=opset), ExtractPads())
    assert operators(after) == ["Conv"]
    assert not result.applied
    assert not result.refused


def test_a_dequantized_input_is_refused() -> None:
    model = graph_from(
        """g (int8[N,4,16,1] q, float[6,4,8,1] w) => (float[N,6,A,B] y) {
            s = Constant <value = float {0.5}> ()
            x = DequantizeLinear (q, s)
            y = Conv <pads = [3, 0, 4, 0]> (x, w)
        }"""
    )
    add_weights(model, w=random_array(6, 4, 8, 1))
    after, result = rewrite(model, ExtractPads())
    assert "Pad" not in operators(after)
    assert reasons(result) == ["its input is dequantized"]
