"""Sums of powers in float16: the range and digits of float32 until the result."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from tests.support.small_models import unoptimized
from tests.targets.xla.test_operators import lowered

LARGE = np.random.default_rng(0).uniform(400, 600, (1, 4, 6, 6)).astype(np.float16).astype(np.float32)
WIDE = (LARGE * 30 - 14000).astype(np.float16).astype(np.float32)
SMALL = np.full((1, 4, 32, 32), 1e-4, np.float32)


@pytest.mark.parametrize(
    ("node", "x"),
    [
        ("LRN <size = 3, alpha = 0.01> (x)", LARGE),
        ("LpNormalization <axis = 3> (x)", LARGE),
        ("LpPool <kernel_shape = [2, 2]> (x)", LARGE),
        ("GlobalLpPool (x)", LARGE),
        ("ReduceL2 (x)", LARGE),
        ("ReduceLogSum (x)", LARGE),
        ("MeanVarianceNormalization <axes = [0, 1, 2, 3]> (x)", WIDE),
        ("ReduceSumSquare (x)", SMALL),
    ],
    ids=lambda value: value.split(" ")[0] if isinstance(value, str) else "",
)
def test_powers_neither_overflow_nor_vanish(node: str, x: np.ndarray):
    shape = ", ".join(map(str, x.shape))
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[{shape}] x) => (float[a, b, c, d] y) {{ y = {node} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    (actual,) = lowered(model, {"x": x}, float_type=np.float16)
    np.testing.assert_allclose(actual, unoptimized(model, {"x": x})["y"], rtol=5e-3, atol=5e-7)
