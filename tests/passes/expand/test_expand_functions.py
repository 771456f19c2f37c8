from __future__ import annotations

import pytest

from passes.capabilities import Capabilities
from passes.expand.expand_functions import ExpandFunctions
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

PRIMITIVE_TEXT = """
    Abs Add And Cast CastLike Clip Concat ConstantOfShape Div Equal Erf Exp Expand Gather Identity IsNaN Less Log
    MatMul Max Min Mod Mul Neg Not Or Pad Pow Range ReduceMax ReduceMean ReduceSum Reciprocal Relu Reshape Shape
    Sigmoid Size Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where If Greater Trilu Flatten
    Tile
"""
PRIMITIVE = frozenset(PRIMITIVE_TEXT.split())
BARE = Capabilities(name="bare", opset_limit=23, kernels=PRIMITIVE)

BODIES = {
    "Gelu": "y = Gelu (x)",
    "Gelu tanh": 'y = Gelu <approximate = "tanh"> (x)',
    "HardSwish": "y = HardSwish (x)",
    "HardSigmoid": "y = HardSigmoid <alpha = 0.3> (x)",
    "Mish": "y = Mish (x)",
    "Softplus": "y = Softplus (x)",
    "Elu": "y = Elu <alpha = 0.5> (x)",
    "Celu": "y = Celu (x)",
    "LeakyRelu": "y = LeakyRelu (x)",
    "PRelu": "y = PRelu (x, w)",
    "LayerNormalization": "y = LayerNormalization (x, w, b)",
    "LayerNormalization without bias": "y = LayerNormalization <epsilon = 0.1> (x, w)",
    "RMSNormalization": "y = RMSNormalization (x, w)",
    "LogSoftmax": "y = LogSoftmax (x)",
    "ReduceL2": "r = ReduceL2 (x) y = Add (x, r)",
    "GreaterOrEqual": "c = GreaterOrEqual (x, w) y = Where (c, x, w)",
    "Attention": "x4 = Unsqueeze (x, one) a = Attention (x4, x4, x4) y = Squeeze (a, one)",
    "Attention, causal": "x4 = Unsqueeze (x, one) a = Attention <is_causal = 1> (x4, x4, x4) y = Squeeze (a, one)",
}


@pytest.mark.parametrize("case", BODIES)
def test_an_operator_without_a_kernel_becomes_its_body(case: str) -> None:
    model = graph_from(
        f"""g (float[N,S,4] x, float[4] w, float[4] b) => (float[N,S,4] y) {{
            one = Constant <value = int64[1] {{1}}> ()
            {BODIES[case]}
        }}"""
    )
    add_weights(model, w=random_array(4), b=random_array(4, seed=1))
    after, result = rewrite(model, ExpandFunctions(), capabilities=BARE)
    assert {op for op in operators(after) if op != "Constant"} <= PRIMITIVE
    assert not after.functions
    assert result.applied
    assert not result.refused


def test_with_a_kernel_it_stays() -> None:
    after, result = rewrite(graph_from("g (float[N] x) => (float[N] y) { y = Gelu (x) }"), ExpandFunctions())
    assert operators(after) == ["Gelu"]
    assert not result.applied


def test_without_a_body_it_is_refused() -> None:
    model = graph_from(
        "g (float[N,3] x) => (float[N,3] y) { one = Constant <value = int64 {1}> () y = CumSum (x, one) }"
    )
    after, result = rewrite(model, ExpandFunctions(), capabilities=BARE)
    assert operators(after)[-1] == "CumSum"
    assert reasons(result) == ["the target has no kernel for CumSum, and ONNX defines no body for it in opset 23"]


def test_a_limit_expands_that_many() -> None:
    model = graph_from("g (float[N] x) => (float[N] y) { a = Mish (x) b = HardSwish (a) y = HardSwish (b) }")
    after, result = rewrite(model, ExpandFunctions(), capabilities=BARE, limit=1)
    assert len(result.applied) == 1
    assert operators(after).count("HardSwish") == 2


def test_outputs_that_the_node_leaves_out_need_not_be_computed() -> None:
    model = graph_from(
        'g (float[N,2,S,4] x) => (float[N,2,S,4] y, float[N,2,S,S] scores) { y, "", "", scores = Attention (x, x, x) }'
    )
    after, _ = rewrite(model, ExpandFunctions(), capabilities=BARE)
    assert {op for op in operators(after) if op != "Constant"} <= PRIMITIVE
