from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.catalogue import default_pipeline
from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.fusion.pack_gate_up import PackGateUp
from passes.pipeline import Pipeline
from passes.serialization import load_model, save_model
from tests.support.golden import assert_rewritten
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

PLAIN = "g = MatMul (x, wg) u = MatMul (x, wu) "
BIASED = "g0 = MatMul (x, wg) g = Add (g0, bg) u0 = MatMul (x, wu) u = Add (bu, u0) "
HALF = "g = MatMul (x, wg) u0 = MatMul (x, wu) u = Add (u0, bu) "
SILU = "s = Sigmoid (g) a = Mul (g, s) y = Mul (a, u)"
GELU = "a = Gelu (g) y = Mul (u, a)"


def _text(body: str, outputs: str = "float[B,S,8] y") -> str:
    return f"""g (float[B,S,6] x, float[B,S,6] z, float[6,8] wg, float[6,8] wu, float[8] bg, float[8] bu,
        float[2,1,6,8] wide)
        => ({outputs}) {{ {body} }}"""


def _weights() -> dict[str, np.ndarray]:
    return {
        "wg": random_array(6, 8, seed=1),
        "wu": random_array(6, 8, seed=2),
        "bg": random_array(8, seed=3),
        "bu": random_array(8, seed=4),
        "wide": random_array(2, 1, 6, 8, seed=5),
    }


def _model(body: str, outputs: str = "float[B,S,8] y") -> ir.Model:
    return add_weights(graph_from(_text(body, outputs)), **_weights())


def test_silu_gate() -> None:
    assert_rewritten(
        _text(PLAIN + SILU),
        "pack-gate-up,eliminate-dead-code",
        """
        wg_gate_up = float[6,16]
        g_gate_up = MatMul (x, wg_gate_up)
        g, u = Split <axis: int = -1, num_outputs: int = 2> (g_gate_up)
        s = Sigmoid (g)
        a = Mul (g, s)
        y = Mul (a, u)
        """,
        weights=_weights(),
    )


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (PLAIN + GELU, ["MatMul", "Split", "Gelu", "Mul"]),
        (BIASED + GELU, ["MatMul", "Add", "Split", "Gelu", "Mul"]),
        (HALF + SILU, ["MatMul", "Add", "Split", "Sigmoid", "Mul", "Mul"]),
        (PLAIN + "a = Relu (g) y = Mul (a, u)", ["MatMul", "Split", "Relu", "Mul"]),
        (PLAIN + "a = Sigmoid (g) y = Mul (a, u)", ["MatMul", "Split", "Sigmoid", "Mul"]),
    ],
)
def test_gated_layers(body: str, left: list[str]) -> None:
    after, result = rewrite(_model(body), PackGateUp())
    assert operators(after) == left
    assert len(result.applied) == 1


REFUSED = {
    "output 'g0' also feeds n": (BIASED + GELU + " n = Neg (g0)", "float[B,S,8] y, float[B,S,8] n"),
    "the weight 'wide' is not a matrix of the type of 'x'": (
        "g = MatMul (x, wide) u = MatMul (x, wu) a = Gelu (g) y = Mul (a, u)",
        "float[2,B,S,8] y",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(reason: str) -> None:
    body, outputs = REFUSED[reason]
    _, result = rewrite(_model(body, outputs), PackGateUp())
    assert reasons(result) == [reason]


def test_a_packed_weight_over_the_limit_is_refused() -> None:
    _, result = rewrite(_model(PLAIN + SILU), PackGateUp(max_bytes=383))
    assert reasons(result) == ["the packed weight would have 384 bytes, over max_bytes=383, all of them stored anew"]
    _, result = rewrite(_model(PLAIN + SILU), PackGateUp(max_bytes=384))
    assert len(result.applied) == 1


@pytest.mark.parametrize(
    "body",
    [
        "g = MatMul (x, wg) u = MatMul (z, wu) " + GELU,  # of two tensors
        PLAIN + "a = Neg (g) y = Mul (a, u)",  # no activation
        "g = MatMul (x, wg) s = Sigmoid (g) y = Mul (g, s)",  # one projection
    ],
)
def test_other_products_are_left_alone(body: str) -> None:
    _, result = rewrite(_model(body), PackGateUp())
    assert not result.applied
    assert not result.refused


def test_an_older_opset_is_refused() -> None:
    model = add_weights(graph_from(_text(PLAIN + "a = Relu (g) y = Mul (a, u)"), opset=17), **_weights())
    _, result = rewrite(model, PackGateUp())
    assert reasons(result) == ["Split into a number of parts needs opset 18"]


def test_the_default_pipeline_leaves_the_weights() -> None:
    assert "pack-gate-up" not in str(default_pipeline())


def test_packed_weights_are_written_to_the_file(tmp_path: Path) -> None:
    packed, _ = Pipeline((PackGateUp(), EliminateDeadCode())).run(_model(PLAIN + SILU))
    save_model(packed, tmp_path / "packed.onnx")
    stored = load_model(tmp_path / "packed.onnx").graph.initializers["wg_gate_up"].const_value
    assert stored is not None
    weights = _weights()
    np.testing.assert_array_equal(stored.numpy(), np.concatenate([weights["wg"], weights["wu"]], axis=1))
