from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from passes.base import Context, Pass, PassResult
from passes.bisect import find_culprit
from passes.catalogue import default_pipeline
from passes.cleanup.remove_identities import RemoveIdentities
from passes.errors import BadModel, UsageError
from passes.pipeline import Pipeline
from passes.precision.convert_float import ConvertFp16
from tests.support.rewriting import graph_from


@dataclass(frozen=True)
class Misread(Pass):
    """Renames Tanh nodes to themselves, but the one that is called `bad`: that is broken as `kind` says."""

    name: ClassVar[str] = "misread"

    kind: str = "result"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        for node in list(model.graph):
            if node.op_type != "Tanh":
                continue
            if node.name == "bad" and self.kind == "raises":
                raise RuntimeError("a defect")
            if not recorder.may_apply(node, "tanh"):
                break
            if node.name == "bad":
                node.op_type = {"result": "Erf", "does not run": "NoSuchOperator"}[self.kind]
        return recorder.result()


def _model(count: int = 40, bad: int = 29) -> ir.Model:
    names = ["x", *(f"t{index}" for index in range(count)), "y"]
    lines = [f"{new} = Tanh ({old})" for old, new in itertools.pairwise(names)]
    model = graph_from(f"g (float[N,4] x) => (float[N,4] y) {{ i = Identity (x) {' '.join(lines)} z = Neg (i) }}")
    tanh = [node for node in model.graph if node.op_type == "Tanh"]
    for index, node in enumerate(tanh):
        node.name = f"tanh_{index}"
    tanh[bad].name = "bad"
    return model


@pytest.mark.parametrize(("kind", "words"), [("result", "the result changes"), ("does not run", "does not run")])
def test_the_one_faulty_rewrite_is_found(kind: str, words: str) -> None:
    pipeline = Pipeline((RemoveIdentities(), Misread(kind)))
    found = find_culprit(_model(), pipeline)
    culprit = found.culprit
    assert culprit is not None
    assert (culprit.name, culprit.rule, culprit.node, culprit.limit) == ("misread", "tanh", "bad", 31)
    assert words in culprit.problem
    assert culprit.pipeline == str(pipeline)
    assert found.rewrites == 42
    assert found.runs <= 10  # log2(42), and the graphs right before and after
    assert [line[:1] for line in culprit.changes.splitlines() if "bad" in line] == ["-", "+"]


def test_the_replay_shows_it() -> None:
    pipeline = Pipeline((Misread(),))
    culprit = find_culprit(_model(), pipeline).culprit
    assert culprit is not None
    after, _ = pipeline.run(_model(), limit=culprit.limit)
    before, _ = pipeline.run(_model(), limit=culprit.limit - 1)
    assert [graph.graph.num_nodes() for graph in (before, after)] == [43, 43]
    assert [sum(node.op_type == "Erf" for node in graph.graph) for graph in (before, after)] == [0, 1]


def test_a_pass_that_raises_is_the_culprit() -> None:
    culprit = find_culprit(_model(), Pipeline((RemoveIdentities(), Misread("raises")))).culprit
    assert culprit is not None
    assert culprit.name.startswith("misread")
    assert "a defect" in culprit.problem
    assert culprit.limit == 30  # 29 Tanh and one Identity before it


def test_right_pipelines_have_no_culprit() -> None:
    found = find_culprit(_model(), default_pipeline())
    assert found.culprit is None
    assert found.rewrites > 0
    assert found.sets >= 3


def test_what_cannot_be_localized_is_said() -> None:
    with pytest.raises(UsageError, match="'convert-fp16', which is meant to move results"):
        find_culprit(_model(), Pipeline((ConvertFp16(),)))
    model = _model()
    model.graph.node(1).op_type = "NoSuchOperator"
    with pytest.raises(BadModel, match="does not run before any pass"):
        find_culprit(model, default_pipeline())
    text = "g (float[2,8] x) => (float[2,8] y) { r = RandomNormalLike (x) a = Identity (r) y = Add (x, a) }"
    with pytest.raises(BadModel, match="not deterministic"):
        find_culprit(graph_from(text, opset=18), default_pipeline())
