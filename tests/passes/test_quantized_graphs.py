"""A graph with explicit quantization goes through the default pipeline with its Q/DQ nodes and int8 weights whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from passes.catalogue import default_pipeline
from passes.cleanup.fold_constants import FoldConstants
from tests.support.rewriting import add_weights, counts, graph_from, rewrite

TEXT = """g (float[N,S,8] x, int8[8,8] wq, float[8] ws, int8[8] wz, float[8] b) => (float[N,S,8] y) {
    s = Constant <value = float {0.05}> () z = Constant <value = int8 {3}> ()
    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
    w = DequantizeLinear <axis = 1> (wq, ws, wz)
    m = MatMul (d, w) a = Add (m, b)
    i = Identity (a)
    aq = QuantizeLinear (i, s, z) ad = DequantizeLinear (aq, s, z)
    t = Transpose <perm = [0, 2, 1]> (ad) u = Transpose <perm = [0, 2, 1]> (t)
    y = Add (u, d)
}"""


def _model() -> ir.Model:
    random = np.random.default_rng(0)
    return add_weights(
        graph_from(TEXT),
        wq=random.integers(-127, 128, (8, 8), dtype=np.int8),
        ws=np.full(8, 0.01, np.float32),
        wz=np.zeros(8, np.int8),
        b=random.standard_normal(8).astype(np.float32),
    )


def test_q_and_dq_stay_and_int8_weights_stay_int8() -> None:
    after, _ = rewrite(_model(), FoldConstants())
    after, _ = default_pipeline().run(after)
    left = counts(after)
    assert (left["QuantizeLinear"], left["DequantizeLinear"]) == (2, 3)
    assert "Identity" not in left
    assert "Transpose" not in left
    assert after.graph.initializers["wq"].dtype == ir.DataType.INT8
    rewrite(_model(), *default_pipeline().steps)  # type: ignore[arg-type]
