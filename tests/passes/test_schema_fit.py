from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from passes.base import Context, Pass, PassResult
from passes.errors import PassBroken
from passes.observers import CheckStructure
from passes.pipeline import Pipeline
from passes.schema_fit import misfits
from tests.support.rewriting import graph_from

TEXT = "g (float[2,3] x, float[3,4] w) => (float[2,4] y) { r = Relu (x) y = MatMul (r, w) }"


def _add_attribute(model: ir.Model) -> None:
    model.graph[0].attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)


def _add_input(model: ir.Model) -> None:
    matmul = model.graph[1]
    matmul.resize_inputs(3)
    matmul.replace_input_with(2, model.graph.inputs[0])


def _newer(model: ir.Model) -> None:
    model.graph[0].op_type = "Gelu"
    model.opset_imports[""] = 19


def _unknown(model: ir.Model) -> None:
    model.graph[0].op_type = "Relux"


def _of_two_types(model: ir.Model) -> None:
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.inputs[1].type = ir.TensorType(ir.DataType.DOUBLE)


def _of_a_wrong_type(model: ir.Model) -> None:
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.BOOL)


def _incomplete(model: ir.Model) -> None:
    model.graph[0].op_type = "Cast"


def _extra_output(model: ir.Model) -> None:
    model.graph[0].resize_outputs(2)


FAULTS: dict[str, Callable[[ir.Model], None]] = {
    "Relu 'r': has no attribute 'alpha' in opset 23": _add_attribute,
    "MatMul 'y': takes 2 inputs, not 3, in opset 23": _add_input,
    "Gelu 'r': no such operator in opset 19": _newer,
    "Relux 'r': no such operator in opset 23": _unknown,
    "MatMul 'y': takes inputs of one type T, not tensor(float) and tensor(double), in opset 23": _of_two_types,
    "Relu 'r': takes no tensor(bool) as input 0 in opset 23": _of_a_wrong_type,
    "Cast 'r': needs the attribute 'to' in opset 23": _incomplete,
    "Relu 'r': has 1 outputs, not 2, in opset 23": _extra_output,
}


def test_a_sound_graph_has_no_misfit() -> None:
    assert list(misfits(graph_from(TEXT))) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_definition_forbids_is_found_and_blamed_on_the_pass_that_made_it(fault: str) -> None:
    @dataclass(frozen=True)
    class Breaks(Pass):
        name: ClassVar[str] = "breaks"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            recorder = context.recorder(self.name)
            if recorder.may_apply("r"):
                FAULTS[fault](model)
            return recorder.result()

    with pytest.raises(PassBroken) as broken:
        Pipeline((Breaks(),)).run(graph_from(TEXT), observers=[CheckStructure()])
    assert fault in broken.value.message
    assert "'breaks'" in broken.value.message


def test_what_was_wrong_before_is_blamed_on_no_pass() -> None:
    @dataclass(frozen=True)
    class Upgrades(Pass):
        name: ClassVar[str] = "upgrades"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            recorder = context.recorder(self.name)
            if recorder.may_apply("r"):
                model.opset_imports[""] = 24
            return recorder.result()

    model = graph_from(TEXT)
    _add_attribute(model)
    Pipeline((Upgrades(),)).run(model, observers=[CheckStructure()])
    assert [found.reason for found in misfits(model)] == ["has no attribute 'alpha'"]


def test_calls_of_functions_and_operators_of_others_are_left_alone() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23, "local" : 1, "com.microsoft" : 1]>
        g (float[2] x) => (float[2] y) { r = local.Relu (x, x) s = com.microsoft.Strange (r) y = Abs (s) }
        <domain: "local", opset_import: ["" : 23]> Relu (a, b) => (c) { c = Add (a, b) }"""
    assert list(misfits(ir.from_onnx_text(text))) == []


def test_variadic_inputs_of_one_type_are_held_to_it() -> None:
    model = graph_from("g (float[2] x, double[2] z) => (float[2] y) { y = Sum (x, x, z) }")
    assert [found.reason.split(",")[0] for found in misfits(model)] == ["takes inputs of one type T"]
    body = "b (int64 i, bool c, float[2] s) => (bool d, float[2] t) { d = Identity (c) t = Neg (s) }"
    mixed = graph_from(f"g (float[2] x, int64 n) => (float[2] y) {{ y = Loop (n, , x) <body = {body}> }}")
    assert list(misfits(mixed)) == []


def test_an_input_that_must_be_there_is_missed() -> None:
    model = graph_from("g (float[2] x) => (float[2] y) { y = Clip (x, , x) }")
    assert list(misfits(model)) == []
    model.graph[0].replace_input_with(0, None)
    assert [found.reason for found in misfits(model)] == ["needs its input 0"]
