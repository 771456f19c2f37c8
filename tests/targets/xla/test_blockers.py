"""All blockers at once, and settings."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from passes.errors import UsageError
from targets.base import BuildOptions
from targets.xla.chips import CHIPS, chip_count, chip_of
from targets.xla.target import XlaTarget

HEADER = '<ir_version: 10, opset_import: ["" : 20, "my.domain" : 1]>\n'


def blockers(text: str):
    model = ir.from_proto(onnx.parser.parse_model(HEADER + text))
    for node in model.graph:
        node.metadata_props["graphwright.source_line"] = f"model.py:{node.op_type}"
    return {(b.operator, b.node): b for b in XlaTarget().blockers(model, BuildOptions())}


def test_lists_all_at_once_with_names_and_lines():
    found = blockers(
        """g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y, int64[2, m] i, float[k, 4] r, float[n, 4] w) {
            [first] a = NoSuchOperator(x)
            [second] i = NonZero(z)
            [third] y = my.domain.Custom(a)
            one = Constant <value_ints = [1]> ()
            s = ReduceSum <keepdims = 0> (z, one)
            c = Cast <to = 9> (s)
            [fourth] r = Compress <axis = 0> (x, c)
            [fifth] w = Add(z, z)
        }"""
    )
    assert set(found) == {
        ("NoSuchOperator", "first"),
        ("NonZero", "second"),
        ("Custom", "third"),
        ("Compress", "fourth"),
    }
    assert "my.domain::Custom" in found["Custom", "third"].reason
    assert "depends on the data" in found["NonZero", "second"].reason
    assert found["Compress", "fourth"].source_line == "model.py:Compress"


def test_names_an_operator_inside_a_branch():
    found = blockers(
        """g (float[2] x, bool c) => (float[2] y) {
            [choice] y = If (c) <
                then_branch = t () => (float[2] a) { [inner] a = NoSuchOperator(x) },
                else_branch = e () => (float[2] b) { b = Neg(x) }
            >
        }"""
    )
    assert ("NoSuchOperator", "inner") in found


def test_an_input_without_a_type_is_said_to_have_none():
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]>\ng (float[2] x) => (float[2] y) { y = Neg (x) }'
    )
    model.graph.inputs[0].type = None
    (blocker,) = XlaTarget().blockers(model, BuildOptions())
    assert blocker.reason == "the model does not state its type"


def test_refuses_strings_and_sequences():
    assert ("Input", "x") in blockers("g (string[n] x) => (string[n] y) { y = Identity(x) }")
    assert ("Input", "x") in blockers("g (seq(float[n]) x, int64 i) => (float[n] y) { y = SequenceAt(x, i) }")


def test_a_shape_that_can_never_fit_is_a_blocker():
    found = blockers("g (float[n, 3] x, float[n, 4] z) => (float[n, 4] y) { [sum] y = Add(x, z) }")
    assert ("Add", "sum") in found


def test_a_clean_graph_has_none():
    assert blockers("g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }") == {}


@pytest.mark.parametrize(
    "settings",
    [{"topology": "v5x:2x2"}, {"topology": "v5e"}, {"topology": "v4:2x2"}, {"shapes": "any"}, {"matmul": "high"}],
)
def test_refuses_unknown_settings(settings: dict[str, str]):
    with pytest.raises(UsageError) as refused:
        XlaTarget().check(BuildOptions(settings=settings))
    assert refused.value.hint


def test_labels():
    label = XlaTarget().label
    assert label(BuildOptions()) == "fp32"
    assert label(BuildOptions(settings={"topology": "v5e:2x2"})) == "v5e-2x2-fp32"
    assert label(BuildOptions(precision="bf16", settings={"shapes": "fixed"})) == "bf16-fixed"
    assert label(BuildOptions(settings={"matmul_precision": "default"})) == "fp32-matmul-default"


def test_chips():
    assert chip_of("v5e:2x2").hbm_bytes == 16 << 30
    assert chip_count("v4:2x2x1") == 4
    for chip in CHIPS.values():
        assert chip_of(f"{chip.name}:{'x'.join('2' * chip.grid_rank)}") is chip
