"""Nodes that OpenVINO misreads: they are blockers, and OpenVINO still misreads them; and what it reads rightly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from targets.base import BuildOptions
from targets.openvino.target import OpenVinoTarget

TARGET = OpenVinoTarget()
CACHE = """g (float[b, 2, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v, float[b, 2, p, 8] pk, float[b, 2, p, 8] pv)
    => (float[b, 2, s, 8] y, float[b, 2, w, 8] nk, float[b, 2, w, 8] nv)
    { y, nk, nv = Attention <is_causal = CAUSAL> (q, k, v, , pk, pv) }"""
MASK = """g (float[b, 2, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v, float[b, 1, s, MASKED] m)
    => (float[b, 2, s, 8] y) { y = Attention (q, k, v, m) }"""
CACHE_AND_MASK = (
    CACHE.replace("CAUSAL", "0").replace("pv)", "pv, float[b, 1, s, MASKED] m)", 1).replace("v, ,", "v, m,")
)
SIZES = {"b": 2, "s": 5, "t": 7, "p": 3}


def model_from(text: str, opset: int = 23) -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    return ir.from_proto(onnx.parser.parse_model(f"{header}\n{text}"))


def feeds_of(model: ir.Model) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        str(value.name): random.standard_normal(
            [dim if isinstance(dim, int) else SIZES[str(dim.value)] for dim in value.shape]
        ).astype(np.float32)
        for value in model.graph.inputs
    }


def largest_error(model: ir.Model, out: Path) -> float:
    feeds = feeds_of(model)
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]
    with TARGET.open(TARGET.build(model, out, BuildOptions())) as runner:
        return float(np.abs(runner(feeds)["y"] - expected).max())


WRONG = [CACHE.replace("CAUSAL", "1")]
RIGHT = [(23, CACHE.replace("CAUSAL", "0"))] + [
    (24, text)
    for text in (
        CACHE.replace("CAUSAL", "0"),
        MASK.replace("MASKED", "t"),
        MASK.replace("MASKED", "1"),  # from opset 24 on, -inf follows a mask that ends before the keys do
        MASK.replace("MASKED", "3"),
        CACHE_AND_MASK.replace("MASKED", "1"),
        CACHE_AND_MASK.replace("MASKED", "4"),
    )
]


@pytest.mark.parametrize("text", WRONG)
def test_misread_nodes_are_blockers_and_still_misread(text: str, tmp_path: Path):
    """Red when OpenVINO reads one of them rightly: then its rule may go."""
    model = model_from(text)
    (blocker,) = TARGET.blockers(model, BuildOptions())
    assert blocker.operator == "Attention"
    assert largest_error(model, tmp_path) > 0.1


@pytest.mark.parametrize(("opset", "text"), RIGHT)
def test_their_neighbours_are_not(opset: int, text: str, tmp_path: Path):
    model = model_from(text, opset)
    assert TARGET.blockers(model, BuildOptions()) == ()
    assert largest_error(model, tmp_path) < 1e-4


def test_an_unrelated_error_is_not_hidden_by_a_misread_node():
    model = model_from(WRONG[0])
    first = model.graph[0]
    odd = ir.node("Odd", [first.outputs[0]], domain="d", name="odd")
    odd.outputs[0].name, odd.outputs[0].type, odd.outputs[0].shape = "z", first.outputs[0].type, first.outputs[0].shape
    model.graph.append(odd)
    model.graph.outputs[0] = odd.outputs[0]
    model.graph.opset_imports["d"] = 1
    assert {blocker.operator for blocker in TARGET.blockers(model, BuildOptions())} == {"Attention", "Odd"}


def test_before_opset_24_a_mask_of_one_key_holds_for_all_keys(tmp_path: Path):
    """onnx's reference evaluator pads it, as later opsets do; the standard says "broadcastable"."""
    model, feeds = model_from(MASK.replace("MASKED", "1")), feeds_of(model_from(MASK.replace("MASKED", "1")))
    assert TARGET.blockers(model, BuildOptions()) == ()
    whole = feeds | {"m": np.repeat(feeds["m"], SIZES["t"], axis=-1)}
    (expected,) = ReferenceEvaluator(ir.to_proto(model_from(MASK.replace("MASKED", "t")))).run(None, whole)
    with TARGET.open(TARGET.build(model, tmp_path, BuildOptions())) as runner:
        np.testing.assert_allclose(runner(feeds)["y"], expected, rtol=0, atol=1e-4)
