"""The torch source from end to end: what it traces, what it refuses, and what the reference answers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exporter.sources import open_source
from exporter.sources import torch_strategies as strategies
from exporter.sources.base import Traced
from exporter.sources.onnx_runner import open_onnx
from exporter.sources.torch_graph import SOURCE_LINE
from exporter.sources.torch_module import TorchSource
from passes.errors import CannotRun, ExitCode, ModelBlocked, TraceFailed, UsageError
from passes.serialization import save_model
from targets.base import TensorSpec

MODELS = Path(__file__).parents[2] / "support" / "torch_models.py"


def source(name: str) -> TorchSource:
    opened = open_source(f"{MODELS}:{name}")
    assert isinstance(opened, TorchSource)
    return opened


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return source("encoder").trace(tmp_path_factory.mktemp("encoder"))


def shapes(values: list[ir.Value]) -> list[str]:
    return [f"{value.name}{value.shape}" for value in values]


def run(model: ir.Model, feeds: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    save_model(model, folder / "model.onnx")
    with open_onnx(folder / "model.onnx", threads=1) as runner:
        return runner(feeds)


def test_names_and_dimensions(traced: Traced) -> None:
    graph = traced.model.graph
    assert shapes(list(graph.inputs)) == ["ids[batch,length]", "mask[batch,length]"]
    assert shapes(list(graph.outputs)) == ["tokens[batch,length,8]", "logits[batch,3]"]
    assert [attempt.strategy for attempt in traced.attempts if attempt.succeeded] == ["torch.export"]
    assert {"embedding.weight", "head.bias"} <= set(graph.initializers)


def test_source_lines_and_no_machine_paths(traced: Traced) -> None:
    lines = [node.metadata_props.get(SOURCE_LINE, "") for node in traced.model.graph]
    assert any(line.startswith("torch_models.py:") for line in lines)
    text = str(ir.to_proto(traced.model))
    assert str(Path(sys.prefix)) not in text
    assert str(MODELS.parent) not in text


def test_tracing_again_gives_the_same_graph(traced: Traced, tmp_path: Path) -> None:
    again = source("encoder")
    again.built.module.load_state_dict(source("encoder").built.module.state_dict())
    second = again.trace(tmp_path)
    assert ir.to_proto(second.model).SerializeToString() == ir.to_proto(traced.model).SerializeToString()


def test_the_graph_answers_as_the_reference_at_other_sizes(traced: Traced, tmp_path: Path) -> None:
    feeds = {"ids": np.array([[1, 2, 3]] * 4), "mask": np.array([[1, 1, 0]] * 4, np.float32)}
    with source("encoder").reference() as reference:
        wanted = reference(feeds)
        assert [spec.name for spec in reference.outputs] == list(wanted) == ["tokens", "logits"]
        assert reference.outputs[0] == TensorSpec("tokens", "float32", ("batch", "length", 8))
    got = run(traced.model, feeds, tmp_path)
    for name, expected in wanted.items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-6)


def test_structures_constants_and_repeated_outputs(tmp_path: Path) -> None:
    opened = source("structured")
    model = opened.trace(tmp_path).model
    names = ["result_logits", "result_hidden", "pair_0", "pair_1_0", "x_out"]
    assert [value.name for value in model.graph.outputs] == names
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    got = run(model, {"x": x}, tmp_path)
    np.testing.assert_array_equal(got["result_logits"], 3 * x + 1)
    np.testing.assert_array_equal(got["pair_0"], 3 * x + 1)
    np.testing.assert_array_equal(got["x_out"], x)


def test_a_size_read_as_an_integer_takes_a_later_strategy(tmp_path: Path) -> None:
    result = source("baked").trace(tmp_path)
    assert [attempt.succeeded for attempt in result.attempts] == [False, False, True]
    assert "Constraints violated" in result.attempts[0].reason
    assert "Reshape" in result.attempts[1].reason  # the relaxed graph has the size baked in: the probe ran it
    assert shapes(list(result.model.graph.outputs)) == ["output[rows,2,2]"]


def test_a_fixed_batch_is_found_where_it_was_only_guessed(tmp_path: Path) -> None:
    result = source("fixed").trace(tmp_path)
    assert result.attempts[-1].strategy == "torch.export, batch fixed"
    assert shapes(list(result.model.graph.inputs)) == ["x[2,4]"]


def test_a_fixed_batch_that_was_declared_dynamic_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(TraceFailed) as caught:
        source("fixed_declared").trace(tmp_path)
    assert caught.value.exit_code is ExitCode.BLOCKED
    assert caught.value.message.count("\n") >= 3


def test_recurrent_sizes_stay_symbols(tmp_path: Path) -> None:
    result = source("recurrent").trace(tmp_path)
    assert shapes(list(result.model.graph.outputs)) == ["output[batch,time,8]"]
    sizes = {dim for node in result.model.graph for value in node.outputs for dim in value.shape or ()}
    assert 7 not in sizes


def test_branching_on_values_is_refused_by_every_strategy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TraceFailed) as caught:
        source("branching").trace(tmp_path)
    message = caught.value.message
    assert "torch_models.py:" in message
    assert "TorchScript: ValueError: the trace would hold for this sample alone" in message
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert logging.root.manager.disable == logging.NOTSET


def test_untranslated_operators_are_all_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelBlocked) as caught:
        source("exotic").trace(tmp_path)
    operators = [blocker.operator for blocker in caught.value.blockers]
    assert len(operators) == 2
    assert "bessel_j0" in operators[0]
    assert "bessel_j1" in operators[1]
    assert all(blocker.source_line.startswith("torch_models.py:") for blocker in caught.value.blockers)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def _planted(fault: str) -> strategies.Strategy:
    def trace(subject: strategies.Subject) -> tuple[ir.Model, bool]:
        text = {
            "sign": "y = Neg (x)",
            "scale": "f = Constant <value = float {1.01}> ()\n y = Mul (x, f)",
            "shape": "f = Constant <value = int64[1] {0}> ()\n y = ReduceSum <keepdims = 1> (x, f)",
            "type": "y = Cast <to = 11> (x)",
            "name": "y = Identity (x)",
        }[fault]
        kind = "double" if fault == "type" else "float"
        graph = f'<ir_version: 10, opset_import: ["" : 20]>\ng (float[n, 4] x) => ({kind}[n, 4] y) {{ {text} }}'
        model = ir.from_onnx_text(graph)
        model.graph.inputs[0].name = subject.dims.inputs[0].name
        model.graph.outputs[0].name = "wrong" if fault == "name" else subject.outputs[0].name
        return model, True

    return strategies.Strategy("planted", trace)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sign", "SQNR"),
        ("scale", "SQNR 40.0"),
        ("shape", "shape"),
        ("type", "is float64, not float32"),
        ("name", "outputs are"),
    ],
)
def test_a_wrong_graph_is_never_taken(fault: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = tmp_path / "identity.py"
    builder.write_text("import torch\ndef build():\n    return torch.nn.Identity(), torch.randn(2, 4), ({0: 'n'},)\n")
    monkeypatch.setattr(strategies, "STRATEGIES", (_planted(fault),))
    with pytest.raises(TraceFailed, match=said):
        open_source(f"{builder}:build").trace(tmp_path)


def test_a_type_without_kernels_is_not_called_wrong(tmp_path: Path) -> None:
    result = source("half").trace(tmp_path)
    assert result.attempts[-1].succeeded
    assert source("half").inputs()[0].dtype == "bfloat16"


def test_dropout_is_off() -> None:
    with source("dropping").reference() as reference:
        feeds = {"x": np.ones((3, 4), np.float32)}
        np.testing.assert_array_equal(reference(feeds)["output"], reference(feeds)["output"])


def test_bfloat16_goes_in_and_comes_out() -> None:
    opened = source("half")
    with opened.reference() as reference:
        example = opened.example()
        assert example is not None
        assert reference(example)["output"].dtype.name == "bfloat16"


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with source("dropping").reference(threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "has no input 'x'"),
        ({"x": np.ones((2, 4), np.float32), "y": np.ones(1)}, "'y', which is no input"),
        ({"x": np.ones((2, 5), np.float32)}, r"shape \[2, 5\]"),
    ],
)
def test_the_reference_checks_its_inputs(feeds: dict[str, np.ndarray], said: str) -> None:
    with source("dropping").reference() as reference, pytest.raises(UsageError, match=said):
        reference(feeds)


def test_a_sample_that_the_module_does_not_take() -> None:
    opening = source("bad_sample").reference()
    with pytest.raises(UsageError, match=r"fails on its own sample inputs \(x \[2, 5\]\)"), opening:
        pass


def test_builders_that_fail() -> None:
    with pytest.raises(UsageError, match="raised ValueError: weights are missing") as caught:
        source("raising")
    assert "torch_models.py:" in caught.value.hint
    with pytest.raises(UsageError, match="no torch module"):
        source("no_module")


def test_samples_stand_in_for_missing_sample_inputs() -> None:
    with pytest.raises(UsageError, match="returned no sample inputs") as caught:
        source("encoder_without_samples").inputs()
    assert "--samples" in caught.value.hint
    feeds = [
        {"ids": np.ones((batch, length), np.int64), "mask": np.ones((batch, length), np.float32)}
        for batch, length in ((2, 5), (3, 7))
    ]
    opened = open_source(f"{MODELS}:encoder_without_samples", samples=feeds)
    assert [spec.shape for spec in opened.inputs()] == [("batch", "sequence")] * 2


def test_undeclared_dimensions_come_from_samples() -> None:
    assert [spec.shape for spec in source("encoder_undeclared").inputs()] == [("batch", 5)] * 2


def test_the_hash_covers_code_and_weights(tmp_path: Path) -> None:
    text = "import torch\ndef build():\n    torch.manual_seed(%d)\n    return torch.nn.Linear(2, 2)  # %s\n"
    hashes = []
    for index, (seed, note) in enumerate([(0, "a"), (0, "a"), (1, "a"), (0, "b")]):
        path = tmp_path / str(index) / "model.py"
        path.parent.mkdir()
        path.write_text(text % (seed, note))
        hashes.append(open_source(f"{path}:build").sha256())
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    opened = open_source(f"{tmp_path}/0/model.py:build")
    assert isinstance(opened, TorchSource)
    with torch.no_grad():
        opened.built.module.weight[0, 0] += 1e-6
    assert opened.sha256() != hashes[0]


def test_compiling_is_tried_only_when_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    [(name, opening)] = list(source("dropping").baselines())
    assert name == "torch.compile"
    with pytest.raises(CannotRun, match="no C\\+\\+ compiler"), opening:
        pass
    monkeypatch.setattr(torch, "compile", lambda module: module)
    [(_, opening)] = list(source("dropping").baselines())
    with opening as runner:
        assert runner({"x": np.ones((3, 4), np.float32)})["output"].shape == (3, 4)
