from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import onnx_ir as ir
import pytest

from passes.base import Context, Pass, PassResult
from passes.catalogue import PASSES, default_pipeline
from passes.cleanup.fold_constants import FoldConstants
from passes.cleanup.remove_identities import RemoveIdentities
from passes.errors import GraphwrightError, PassBroken, UsageError
from passes.observers import CheckStructure, Dump, PrintAfter, Statistics
from passes.parse import pipeline_from_text
from passes.pipeline import Pipeline, Repeat
from tests.support.rewriting import graph_from, operators, rewrite

TEXT = """g (float[N,4] x) => (float[N,4] y) {
    a = Identity (x) b = Relu (a) c = Relu (a) zero = Constant <value = float {0.0}> () d = Add (b, zero)
    e = Transpose <perm = [1, 0]> (d) f = Transpose <perm = [1, 0]> (e) g = Add (f, c) y = Identity (g)
}"""


def test_every_pass_has_a_test_module_and_a_name_in_the_table() -> None:
    root = Path(__file__).parent
    for name, kind in PASSES.items():
        folder = root.joinpath(*kind.__module__.split(".")[1:-1])
        tests = [file.read_text() for file in folder.glob("test_*.py")]
        assert any(re.search(rf"\b{kind.__name__}\b", text) for text in tests), f"{name} has no test module"
        assert kind.name == name
        assert importlib.import_module(kind.__module__).__doc__


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fold-constants",
        "fold-constants{max_bytes=64},fuse-gelu",
        "repeat(fold-constants,eliminate-dead-code)",
        "repeat{rounds=2}(fuse-gelu),upgrade-opset{target=21}",
        "quantize-static{smooth=false,keep=[/encoder/MatMul_1,conv.2]},fuse-gelu",
        "quantize-static{smooth=false,keep=[a%2Cb,c%7B%5D%25]}",
        str(default_pipeline()),
    ],
)
def test_text_round_trips(text: str) -> None:
    assert str(pipeline_from_text(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fold-constant", "Did you mean fold-constants"),
        ("fold-constants,", "expected the name of a pass at character 15"),
        ("fold-constants{max_bytes=x}", "'x' is not a number of type int"),
        ("fold-constants{max_bytes=-1}", "max_bytes is a size"),
        ("fold-constants{size=1}", "It has max_bytes."),
        ("fuse-gelu{a=1}", "It has no options."),
        ("quantize-static{keep=conv_1}", "not a list such as [first,second]"),
        ("quantize-static{keep=[a,b}", "written once"),
        ("fold-constants{max_bytes=1,max_bytes=2}", "written once"),
        ("repeat(fold-constants", "expected ',' or ')'"),
        ("repeat(repeat(fuse-gelu))", "repeat inside repeat"),
        ("repeat{rounds=0}(fuse-gelu)", "a positive integer"),
        ("fuse-gelu)", "expected ',' or the end"),
        ("fuse-gelu fuse-gelu", "unexpected text"),
    ],
)
def test_bad_text_says_where_and_what(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline_from_text(text)
    assert words in str(caught.value)


def test_a_limit_makes_exactly_that_many_rewrites_and_each_prefix_is_right() -> None:
    model = graph_from(TEXT, opset=17)
    _, results = default_pipeline().run(model)
    total = sum(len(result.applied) for result in results)
    assert total >= 7
    for limit in range(total + 2):
        after, some = default_pipeline().run(model, limit=limit, observers=[CheckStructure()])
        assert sum(len(result.applied) for result in some) == min(limit, total)
        rewrite(model, *[step for step in [RemoveIdentities()] if limit])  # the input is still whole
        onnx.checker.check_model(ir.to_proto(after), full_check=True)


def test_observers_see_every_pass(tmp_path: Path) -> None:
    statistics, lines = Statistics(), []
    pipeline = Pipeline((FoldConstants(), RemoveIdentities()))
    observers = [statistics, PrintAfter(("remove-identities",), lines.append), Dump(tmp_path / "d")]
    pipeline.run(graph_from(TEXT), observers=observers)
    assert [row.name for row in statistics.rows] == ["fold-constants", "remove-identities"]
    assert statistics.rows[1].nodes_after < statistics.rows[1].nodes_before
    assert lines[0].startswith("// after remove-identities: ")
    assert sorted(file.name for file in (tmp_path / "d").iterdir()) == [
        "01-fold-constants.onnx",
        "02-remove-identities.onnx",
    ]


@dataclass(frozen=True)
class Broken(Pass):
    """Raises, or leaves an invalid graph."""

    name: ClassVar[str] = "broken"

    raises: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        if self.raises:
            raise KeyError("x")
        recorder = context.recorder(self.name)
        recorder.may_apply("here")
        model.graph.node(0).op_type = "NoSuchOperator"
        return recorder.result()


def test_a_pass_that_raises_is_named_with_what_replays_it() -> None:
    with pytest.raises(PassBroken) as caught:
        Pipeline((FoldConstants(), Broken())).run(graph_from(TEXT))
    assert "The pass 'broken' raised KeyError" in str(caught.value)
    assert "--pipeline 'fold-constants,broken'" in str(caught.value)


def test_a_pass_that_leaves_an_invalid_graph_is_named() -> None:
    pipeline = Pipeline((Broken(raises=False),))
    with pytest.raises(PassBroken, match=r"The pass 'broken\{raises=false\}' left an invalid graph") as caught:
        pipeline.run(graph_from(TEXT), observers=[CheckStructure(str(pipeline))])
    assert caught.value.hint == "Replay with: --pipeline 'broken{raises=false}' --limit 1"


def test_repeat_stops_when_nothing_is_left() -> None:
    statistics = Statistics()
    Pipeline((Repeat((RemoveIdentities(),)),)).run(graph_from(TEXT), observers=[statistics])
    assert len(statistics.rows) <= 3
    assert statistics.rows[-1].applied == 0


def test_two_runs_give_the_same_bytes() -> None:
    def run() -> bytes:
        return ir.to_proto(default_pipeline().run(graph_from(TEXT))[0]).SerializeToString(deterministic=True)

    assert run() == run()
    assert operators(default_pipeline().run(graph_from(TEXT))[0]) == ["Relu", "Add"]


def test_all_errors_are_of_one_family() -> None:
    assert issubclass(PassBroken, GraphwrightError)


@pytest.mark.parametrize(
    "text",
    ["fuse-gelu,", "repeat(fuse-gelu", "repeat", "Fuse", "fold-constants{max_bytes}", "fold-constants{max_bytes=many}",
     "upgrade-opset{target=3}", "fuse-gelu{fast=true}", "fuse-glu", "repeat{rounds=0}(fuse-gelu)", "fuse-gelu)"],
)  # fmt: skip
def test_malformed_text_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline_from_text(text)
    assert caught.value.hint
