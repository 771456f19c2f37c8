from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.execution import run_model
from passes.matching import dims_of
from passes.sample_inputs import generated_inputs
from passes.shapes import infer_shapes
from tests.support.rewriting import graph_from

CONSTANTS = """
    v0 = Constant <value = int64[1] {0}> () v1 = Constant <value = int64[1] {1}> ()
    v2 = Constant <value = int64[1] {2}> () big = Constant <value = int64[1] {9223372036854775807}> ()
    m1 = Constant <value = int64[1] {-1}> () i0 = Constant <value = int64 {0}> () i1 = Constant <value = int64 {1}> ()
    want = Constant <value = int64[3] {0, -1, 2}> () four = Constant <value = int64[2] {-1, 4}> ()
    w = Constant <value = float[4,2] {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}> ()
    n1 = Shape <start = 0, end = 1> (x) n = Squeeze (n1)
"""

CASES = {
    "Relu (x)": ("B", "S", 4),
    "MatMul (x, w)": ("B", "S", 2),
    "Transpose <perm = [2, 0, 1]> (x)": (4, "B", "S"),
    "Reshape (x, four)": ("B*S", 4),
    "Reshape (x, want)": ("B", "2*S", 2),
    "Flatten <axis = 2> (x)": ("B*S", 4),
    "Unsqueeze (x, v1)": ("B", 1, "S", 4),
    "ReduceMean <keepdims = 0> (x, v1)": ("B", 4),
    "ReduceMax <keepdims = 1> (x, m1)": ("B", "S", 1),
    "Concat <axis = 2> (x, x)": ("B", "S", 8),
    "Concat <axis = 1> (x, x)": ("B", "2*S", 4),
    "Split <axis = -1, num_outputs = 1> (x)": ("B", "S", 4),
    "Split <axis = 1, num_outputs = 1> (x)": ("B", "S", 4),
    "Slice (x, v0, v2, v2)": ("B", "S", 2),
    "Slice (x, v1, big, v2)": ("B", "S", 3),
    "Slice (x, v0, big, v1)": ("B", "S", 4),
    "Slice (x, v1, big, v1)": ("B", None, 4),
    "Slice (x, m1, v0, v2, m1)": ("B", "S", 3),
    "Gather <axis = 2> (x, i0)": ("B", "S"),
    "Gather <axis = 1> (x, v2)": ("B", 1, 4),
    "Range (i0, n, i1)": ("B",),
    "ConstantOfShape (n1)": ("B",),
    "Expand (v1, n1)": ("B",),
    "Softmax (x)": ("B", "S", 4),
    "Greater (x, x)": ("B", "S", 4),
}


@pytest.mark.parametrize("expression", CASES)
def test_the_shape_follows_and_is_what_the_runtime_makes(expression: str) -> None:
    kind, to = ("int64", 7) if expression.startswith(("Range", "Expand")) else ("float", 1)
    dims = ",".join("?" for _ in CASES[expression])
    model = graph_from(
        f"g (float[B,S,4] x) => ({kind}[{dims}] y) {{ {CONSTANTS} r = {expression} y = Cast <to = {to}> (r) }}"
    )
    infer_shapes(model)
    value = next(value for node in model.graph for value in node.outputs if value.name == "r")
    assert dims_of(value) == CASES[expression]
    lengths = {"B": 2, "S": 5}
    result = run_model(model, generated_inputs(model))[0]["y"]
    for dim, length in zip(CASES[expression], result.shape, strict=True):
        if dim is not None:
            assert length == (
                dim if isinstance(dim, int) else np.prod([lengths.get(p) or int(p) for p in dim.split("*")])
            )


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", (None, None)), (", both", (None, None)), (", both, ones", (None, None)), (", second", (8, None))],
)
def test_a_slice_with_bounds_that_vary_has_no_known_length(given: str, expected: tuple[int | None, ...]) -> None:
    model = graph_from(
        f"""g (float[8,10] x, int64[N] s, int64[N] e) => (float[A,B] y) {{
            both = Constant <value = int64[2] {{0, 1}}> () ones = Constant <value = int64[2] {{1, 1}}> ()
            second = Constant <value = int64[1] {{1}}> ()
            r = Slice (x, s, e{given}) y = Relu (r) }}"""
    )
    infer_shapes(model)
    (sliced,) = (node.outputs[0] for node in model.graph if node.op_type == "Slice")
    assert dims_of(sliced) == expected


def test_a_stated_dimension_is_never_changed() -> None:
    model = graph_from("g (float[B,4] x) => (float[C,4] y) { y = Relu (x) }")
    infer_shapes(model)
    assert dims_of(model.graph.outputs[0]) == ("C", 4)


def test_types_that_are_missing_come_from_onnx() -> None:
    model = graph_from("g (float[B,4] x) => (float[B,4] y) { a = IsInf (x) b = Not (a) y = Cast <to = 1> (b) }")
    infer_shapes(model)
    assert [value.dtype for node in model.graph for value in node.outputs][:2] == [ir.DataType.BOOL, ir.DataType.BOOL]


def test_every_output_of_a_split_has_a_shape() -> None:
    model = graph_from(
        """g (float[B,S,7] x) => (float[B,S,3] a, float[B,S,3] b, float[B,S,1] c, float[B,S,P] d, float[B,S,Q] e) {
            a, b, c = Split <axis = 2, num_outputs = 3> (x)
            sizes = Constant <value = int64[2] {5, 2}> ()
            f, h = Split <axis = 2> (x, sizes)
            d = Neg (f) e = Neg (h)
        }"""
    )
    facts = infer_shapes(model)
    lengths = [str(facts.shape(value)[-1]) for node in model.graph for value in node.outputs if node.op_type == "Split"]  # type: ignore[index]
    assert lengths == ["3", "3", "1", "5", "2"]


def test_a_name_that_the_older_exporter_invented_gives_way_to_what_is_inferred() -> None:
    text = """g (float[b,s,4] x) => (float[b,4,s] y) {
        t = Transpose <perm = [0, 2, 1]> (x) u = Relu (t) y = Relu (u) }"""
    model = graph_from(text)
    t = next(node.outputs[0] for node in model.graph if node.op_type == "Transpose")
    t.type, t.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["Concatkey.3_dim_0", 4, "Concatkey.3_dim_2"])
    facts = infer_shapes(model)
    assert facts.shape(t) == facts.shape(model.graph.outputs[0])
    assert str(t.shape) == "[b,4,s]"
