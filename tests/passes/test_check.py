from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, Pass, PassResult
from passes.catalogue import PASSES, default_pipeline
from passes.check import LOSSY, CheckNumerics, is_ill_conditioned
from passes.comparison import difference
from passes.editing import remove_node
from passes.errors import BadModel, PassBroken
from passes.execution import run_model
from passes.input_roles import input_roles
from passes.observers import CheckStructure
from passes.pipeline import Pipeline
from passes.sample_inputs import CHECK_SIZES, generated_inputs
from tests.support.rewriting import add_weights, graph_from, random_array

TEXT = """g (float[N,4] x, float[4] w) => (float[N,4] y, float[N,4] z) {
    a = Add (x, w) y = Relu (a) z = Neg (x)
}"""


def _model() -> ir.Model:
    return add_weights(graph_from(TEXT), w=random_array(4))


@dataclass(frozen=True)
class Fault(Pass):
    """Plants one fault."""

    name: ClassVar[str] = "fault"

    kind: str = "scale"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        recorder.may_apply("planted")
        value = model.graph.initializers["w"]
        relu = next(node for node in model.graph if node.op_type == "Relu")
        if self.kind == "scale":
            value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(1.01), name="w")
        elif self.kind == "nan":
            value.const_value = ir.Tensor(value.const_value.numpy() * np.float32("nan"), name="w")
        elif self.kind == "operator":
            relu.op_type = "Abs"
        elif self.kind == "dropped output":
            model.graph.outputs.pop()
        elif self.kind == "does not run":
            relu.op_type = "NoSuchOperator"
        return recorder.result()


@pytest.mark.parametrize("kind", ["scale", "nan", "operator", "dropped output", "does not run"])
def test_each_planted_fault_is_found_and_the_pass_named(kind: str) -> None:
    pipeline = Pipeline((Fault(kind),))
    with pytest.raises(PassBroken) as caught:
        pipeline.run(_model(), observers=[CheckNumerics(str(pipeline))])
    assert "'fault{kind=" in str(caught.value) or "'fault'" in str(caught.value)
    assert "Replay with: --pipeline" in str(caught.value)


def test_the_output_and_its_error_are_named() -> None:
    with pytest.raises(PassBroken, match=r"output 'y' moved by up to 0\.0"):
        Pipeline((Fault(),)).run(_model(), observers=[CheckNumerics()])


def test_the_replay_names_the_whole_pipeline_and_counts_over_it() -> None:
    pipeline = Pipeline((Fault("scale"), Fault("operator")))
    watch = CheckNumerics(str(pipeline), relative=0.5)
    with pytest.raises(PassBroken) as caught:
        pipeline.run(_model(), observers=[watch])
    assert caught.value.hint == f"Replay with: --pipeline '{pipeline}' --limit 2"


def test_a_graph_that_does_not_run_at_all_is_no_fault_of_a_pass() -> None:
    model = _model()
    model.graph.node(0).op_type = "NoSuchOperator"
    with pytest.raises(BadModel, match=r"does not run before any pass.*NoSuchOperator"):
        default_pipeline().run(model, observers=[CheckNumerics()])


def test_a_right_pipeline_passes_and_what_is_skipped_is_not_compared() -> None:
    default_pipeline().run(_model(), observers=[CheckNumerics()])
    Pipeline((Fault(),)).run(_model(), observers=[CheckNumerics(lossy={"fault": (1e-2, 1e-2)})])


def test_inputs_fit_the_graph() -> None:
    model = graph_from(
        """g (int64[B,S] ids, int64[B,S] attention_mask, bool flag, float[B,3,?] x) => (float[B,S,4] y) {
            t = Constant <value = float[3,4] {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0}> ()
            y = Gather (t, ids)
        }"""
    )
    first, second = generated_inputs(model)
    assert first["ids"].shape != second["ids"].shape
    assert first["ids"].shape[0] != first["ids"].shape[1]
    assert first["x"].shape[:2] == (first["ids"].shape[0], 3)
    assert max(first["ids"].max(), second["ids"].max()) == 2
    assert set(np.unique(second["attention_mask"])) == {0, 1}
    assert first["flag"].shape == ()


def test_nan_and_infinity_count_as_differences() -> None:
    def with_value(number: float) -> dict[str, np.ndarray]:
        return {"y": np.array([1.0, number], np.float32)}

    ok = {"relative": 1e-4, "absolute": 1e-5}
    assert difference(with_value(2), with_value(2), **ok) == ""
    assert difference(with_value(np.nan), with_value(np.nan), **ok) == ""
    assert difference(with_value(2), with_value(np.nan), **ok)
    assert difference(with_value(np.inf), with_value(2), **ok)
    assert difference(with_value(2), {"y": np.ones(2, np.float64)}, **ok) == "output 'y' is float64[2], not float32[2]"
    assert difference({"y": np.ones(2, np.int64)}, {"y": np.zeros(2, np.int64)}, **ok)


def test_a_model_with_weights_in_a_file_runs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from passes.serialization import load_model, save_model

    model = add_weights(
        graph_from("g (float[N,40] x, float[40,40] w) => (float[N,40] y) { y = MatMul (x, w) }"), w=random_array(40, 40)
    )
    save_model(model, tmp_path / "m.onnx")
    feeds = generated_inputs(model)
    expected, actual = run_model(model, feeds), run_model(load_model(tmp_path / "m.onnx"), feeds)
    np.testing.assert_array_equal(expected[0]["y"], actual[0]["y"])


def test_small_weights_in_a_file_are_valid_from_any_folder(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model = add_weights(
        graph_from("""g (bool c, float[N,4] x, float[4] w) => (float[N,4] y) {
            a = Add (x, w)
            y = If (c) <then_branch = t () => (float[N,4] u) { u = Neg (a) },
                        else_branch = e () => (float[N,4] v) { k = Neg (w) v = Add (a, k) }>
        }"""),
        w=random_array(4),
    )
    branch = next(graph for graph in model.graphs() if graph.name == "e")
    weight = ir.Value(name="b", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4]))
    weight.const_value = ir.tensor(random_array(4), name="b")
    branch.register_initializer(weight)
    branch.node(0).replace_input_with(0, weight)
    (tmp_path / "w.data").write_bytes(random_array(8).tobytes())
    for offset, value in ((0, model.graph.initializers["w"]), (16, weight)):
        value.const_value = ir.ExternalTensor(
            "w.data", offset, 16, ir.DataType.FLOAT, shape=ir.Shape([4]), name=str(value.name), base_dir=str(tmp_path)
        )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    structure = CheckStructure()
    default_pipeline().run(model, observers=[structure])
    assert structure.input_problem == ""


def test_what_was_invalid_before_is_no_fault_of_a_pass() -> None:
    model = _model()
    model.graph.outputs[0].shape = None
    structure = CheckStructure()
    _, results = Pipeline((Fault("operator"),)).run(model, observers=[structure])
    assert results[0].applied
    assert "'shape'" in structure.input_problem
    assert "is required but missing" in structure.input_problem


def test_elements_of_a_sequence_are_compared() -> None:
    text = """g (float[2,4] x, float[4] w) => (seq(float[2,4]) s) {
        a = Add (x, w) i = Identity (a) b = Relu (i) s = SequenceConstruct (x, b)
    }"""
    right, wrong = (add_weights(graph_from(text), w=random_array(4)) for _ in range(2))
    check = CheckNumerics()
    default_pipeline().run(right, observers=[check])
    assert check.report().passes
    with pytest.raises(PassBroken, match=r"output 's\[1\]' moved"):
        Pipeline((Fault("scale"),)).run(wrong, observers=[CheckNumerics()])


def test_inputs_that_would_take_gigabytes_are_not_made() -> None:
    with pytest.raises(BadModel, match=r"too large: with 'x' \[100000, 100000\]"):
        generated_inputs(graph_from("g (float[100000,100000] x) => (float[100000,100000] y) { y = Relu (x) }"))


RANDOM = "g (float[2,8] x) => (float[2,8] y) { r = RandomNormalLike (x) a = Identity (r) y = Add (x, a) }"


def test_a_graph_that_is_not_deterministic_is_no_fault_of_a_pass() -> None:
    with pytest.raises(BadModel, match="not deterministic: before any pass, two runs"):
        default_pipeline().run(graph_from(RANDOM, opset=18), observers=[CheckNumerics()])


def test_watching_does_not_change_the_result() -> None:
    text = "g (float[N,40] x, float[40,40] u, float[40] v) => (float[N,40] y) { a = MatMul (x, u) y = Add (a, v) }"
    model = add_weights(
        graph_from(text),
        u=random_array(40, 40), v=random_array(40),
    )  # fmt: skip
    pipeline = default_pipeline()
    watched, _ = pipeline.run(model, observers=[CheckStructure(), CheckNumerics()])
    alone, _ = pipeline.run(model)
    assert ir.to_proto(watched).SerializeToString() == ir.to_proto(alone).SerializeToString()


def test_indices_stay_in_their_tables_through_casts_arithmetic_and_several_readers() -> None:
    model = graph_from(
        """g (int32[B,S] ids, int64[B,S] kinds, int64[B] lengths, int64[B,S] keep) => (float[B,S,2] y, float[B,S,2] z,
            float[B,S,2] u, bool[B,S] m, float[B,S] k) {
            words = Constant <value = float[9,2] {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}> ()
            few = Constant <value = float[2,2] {0, 0, 0, 0}> () two = Constant <value = int64 {2}> ()
            zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
            v1 = Constant <value = int64[1] {1}> ()
            wide = Cast <to = 7> (ids) moved = Add (wide, two) y = Gather (words, moved) u = Gather (words, wide)
            z = Gather (few, kinds)
            shape = Shape (ids) s = Gather (shape, one) range = Range (zero, s, one) last = Unsqueeze (lengths, v1)
            m = Less (range, last)
            f = Cast <to = 1> (keep) ones = Constant <value = float {1.0}> ()
            low = Constant <value = float {-10000.0}> ()
            not = Sub (ones, f) k = Mul (not, low)
        }"""
    )
    sets = generated_inputs(model, sizes=CHECK_SIZES)
    assert max(feed["ids"].max() for feed in sets) == 6
    assert min(feed["ids"].min() for feed in sets) == 0
    assert max(feed["kinds"].max() for feed in sets) == 1
    assert min(feed["lengths"].min() for feed in sets) >= 1
    assert all(set(np.unique(feed["keep"])) <= {0, 1} and (feed["keep"][:, 0] == 1).all() for feed in sets)
    assert {feed["ids"].shape for feed in sets} == {(2, 5), (1, 6), (3, 1), (4, 4)}
    roles = {name: role.kind for name, role in input_roles(model).items()}
    assert roles == {"ids": "index", "kinds": "index", "lengths": "length", "keep": "mask"}


def test_symbols_agree_inside_arithmetic_too() -> None:
    model = graph_from(
        'g (float[B,past] a, float[B,seq] b, float[B,"past + 2*seq"] c) => (float[B,past] y) { y = Neg (a) }'
    )
    for feed in generated_inputs(model):
        assert feed["c"].shape[1] == feed["a"].shape[1] + 2 * feed["b"].shape[1]


def test_a_size_that_runs_only_after_a_pass_is_said_and_is_no_fault() -> None:
    text = "g (float[N,4] x, float[2,4] w) => (float[?,4] y) { a = Add (x, w) y = Relu (a) }"
    model = add_weights(graph_from(text), w=np.zeros((2, 4), np.float32))

    @dataclass(frozen=True)
    class Repair(Pass):
        """Drops the Add of zeros, which takes a batch of 1 or 2 only."""

        name: ClassVar[str] = "repair"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            recorder = context.recorder(self.name)
            relu = next(node for node in model.graph if node.op_type == "Relu")
            if recorder.may_apply(relu):
                relu.replace_input_with(0, model.graph.inputs[0])
                remove_node(next(node for node in model.graph if node.op_type == "Add"))
            return recorder.result()

    feeds = tuple({"x": random_array(size, 4)} for size in (2, 3))
    watch = CheckNumerics(feeds=feeds)
    Pipeline((Repair(),)).run(model, observers=[watch])
    report = watch.report()
    assert len(report.not_run) == 1
    assert report.not_run[0].startswith("inputs 1 (x [3,4]): ")
    assert report.passes[0].note == "runs now with inputs 1, x [3,4]; it did not before"


def test_a_report_says_what_was_compared() -> None:
    watch = CheckNumerics()
    text = "g (float[N,4] x, float[4] w) => (float[N,4] y) { a = Identity (x) b = Mul (a, w) y = Add (b, x) }"
    default_pipeline().run(add_weights(graph_from(text), w=random_array(4)), observers=[watch])
    report = watch.report()
    assert report.sets == len(CHECK_SIZES)
    assert [value.name for value in report.inputs] == ["x"]
    assert report.inputs[0].shapes[1] == (1, 4)
    assert report.passes
    assert all(row.worst < 1e-5 for row in report.passes)
    assert report.not_run == ()


def test_after_a_lossy_pass_its_tolerance_holds() -> None:
    steps = Pipeline((Fault("scale"), Fault("scale")))
    watch = CheckNumerics(lossy={"fault": (0.5, 0.5)})
    steps.run(_model(), observers=[watch])
    assert (watch.report().relative, watch.report().absolute) == (0.5, 0.5)
    assert "meant to move results" in watch.report().passes[0].note


@dataclass(frozen=True)
class Nudge(Pass):
    """Moves the bias that is added to the factors."""

    name: ClassVar[str] = "nudge"

    by: float = 0.0

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        recorder.may_apply("planted")
        value = model.graph.initializers["b"]
        value.const_value = ir.Tensor(value.const_value.numpy() + np.float32(self.by), name="b")
        return recorder.result()


# x moved by a millionth moves x * 1e6 by about one, so the sine is another one
_AMPLIFIER = """g (float[4] x, float[1] b) => (float[4] y) {
    f = Constant <value = float {1e6}> () p = Mul (x, f) q = Add (p, b) y = Sin (q) }"""
_CALM, _WILD = {"x": np.zeros(4, np.float32)}, {"x": np.linspace(1, 2, 4, dtype=np.float32)}


@pytest.mark.parametrize(
    ("by", "feeds", "is_found"),
    [
        (1e-6, (_CALM, _WILD), False),
        (0.06, (_WILD,), True),  # no set speaks for the pass
        (0.06, (_CALM, _WILD), True),
    ],
)
def test_inputs_whose_rounding_the_graph_amplifies_judge_no_pass(by: float, feeds: tuple, is_found: bool) -> None:  # type: ignore[type-arg]
    model = add_weights(graph_from(_AMPLIFIER), b=np.zeros(1, np.float32))
    check = CheckNumerics(feeds=feeds)
    if is_found:
        with pytest.raises(PassBroken, match=r"'nudge\{.*\}' changed the result"):
            Pipeline((Nudge(by),)).run(model, observers=[check])
    else:
        Pipeline((Nudge(by),)).run(model, observers=[check])


def test_a_set_of_inputs_that_is_not_judged_is_named() -> None:
    model = add_weights(graph_from(_AMPLIFIER), b=np.zeros(1, np.float32))

    @dataclass(frozen=True)
    class Reorder(Pass):
        """Adds what rounding loses at 0 but not at 1e6."""

        name: ClassVar[str] = "reorder"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            recorder = context.recorder(self.name)
            recorder.may_apply("planted")
            factor = next(node for node in model.graph if node.op_type == "Constant")
            factor.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.float32(1e6 + 0.125)))
            return recorder.result()

    check = CheckNumerics(feeds=(_CALM, _WILD))
    Pipeline((Reorder(),)).run(model, observers=[check])
    assert "not judged with inputs 1" in check.report().passes[0].note


@pytest.mark.parametrize(
    ("new", "is_rounding"),
    [
        (np.float32([0.9, 0.1]), True),
        (np.float32([np.nan, 0.1]), False),
        (np.float32([np.inf, 0.1]), False),
        (np.float32([0.9, 0.1, 0.1]), False),
        (np.float64([0.9, 0.1]), False),
        (np.int64([1, 0]), False),
        (np.float32([900, 0.1]), False),
    ],
)
def test_only_a_finite_move_as_large_as_the_graphs_own_is_rounding(new: np.ndarray, is_rounding: bool) -> None:
    model = add_weights(graph_from(_AMPLIFIER.replace("[4]", "[2]")), b=np.zeros(1, np.float32))
    feed = {"x": np.float32([1, 2])}
    assert is_ill_conditioned(model, feed, {"y": np.float32([0.5, 0.5])}, {"y": new}) is is_rounding


def test_every_pass_that_lowers_precision_is_meant_to_move_results() -> None:
    assert set(LOSSY) == {name for name in PASSES if name.startswith(("convert-", "quantize-"))}
