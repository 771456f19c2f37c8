from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context
from passes.capabilities import Capabilities
from passes.cleanup.fold_shapes import FoldShapes
from passes.expand.expand_attention import ExpandAttention
from passes.pipeline import Pipeline
from tests.support.rewriting import graph_from, operators, random_array, reasons, rewrite

NONE = Capabilities(name="bare", opset_limit=23, kernels=frozenset({"MatMul", "Softmax"}))


def _model(attributes: str = "", *, mask: str = "", kv: int = 2, flat: bool = False, extra: str = "") -> ir.Model:
    if flat:
        attributes = f"q_num_heads = 2, kv_num_heads = {kv}" + (f", {attributes}" if attributes else "")
        inputs = f"float[B,S,8] q, float[B,T,{4 * kv}] k, float[B,T,{3 * kv}] v"
        output = "float[B,S,6]"
    else:
        inputs = f"float[B,2,S,4] q, float[B,{kv},T,4] k, float[B,{kv},T,3] v"
        output = "float[B,2,S,3]"
    given = "q, k, v, mask" if mask else "q, k, v"
    spelled = f"<{attributes}>" if attributes else ""
    return graph_from(
        f"g ({inputs}{', ' + mask if mask else ''}) => ({output} y{extra}) {{ y = Attention {spelled} ({given}) }}"
    )


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kv", [2, 1])
@pytest.mark.parametrize(
    ("attributes", "mask"),
    [
        ("", ""),
        ("scale = 0.3", ""),
        ("softcap = 1.5", ""),
        ("scale = 1.0", "float[B,1,S,T] mask"),
        ("", "bool[S,T] mask"),
    ],
)
def test_the_expansion_gives_what_attention_gives(attributes: str, mask: str, kv: int, flat: bool) -> None:
    after, _ = rewrite(_model(attributes, mask=mask, kv=kv, flat=flat), ExpandAttention(), capabilities=NONE)
    assert "Attention" not in operators(after)
    assert operators(after).count("MatMul") == 2


@pytest.mark.parametrize(("attributes", "mask"), [("", ""), ("softcap = 1.5", "bool[S,T] mask")])
def test_a_second_run_changes_no_byte(attributes: str, mask: str) -> None:
    pipeline, context = Pipeline((ExpandAttention(),)), Context(NONE)
    once, _ = pipeline.run(_model(attributes, mask=mask, flat=True), context=context)
    data = ir.to_proto(once).SerializeToString(deterministic=True)
    twice, _ = pipeline.run(once, context=context)
    assert ir.to_proto(Pipeline((FoldShapes(),)).run(twice)[0]).SerializeToString(deterministic=True) == data
    assert all(value.shape is not None for node in once.graph for value in node.outputs)


def test_a_wholly_masked_row_is_zero_as_in_attention() -> None:
    mask = np.ones((2, 1, 5, 4), bool)
    mask[1, 0, 2] = False
    feeds = {"q": random_array(2, 2, 5, 4), "k": random_array(2, 2, 4, 4), "v": random_array(2, 2, 4, 3)}
    model = _model(mask="bool[B,1,S,T] mask")
    after, _ = rewrite(model, ExpandAttention(), capabilities=NONE, feeds=({**feeds, "mask": mask},))
    assert "IsNaN" not in operators(after)
    floats = np.where(mask, np.float32(0), np.float32(-np.inf))
    model = _model(mask="float[B,1,S,T] mask")
    after, _ = rewrite(model, ExpandAttention(), capabilities=NONE, feeds=({**feeds, "mask": floats},))
    assert "IsNaN" in operators(after)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kv", [2, 1])
def test_causal_attention_adds_a_mask(queries: int, keys: int, flat: bool, kv: int) -> None:
    model = _model("is_causal = 1", kv=kv, flat=flat)
    shapes = {name: tuple(dim if isinstance(dim, int) else None for dim in value.shape) for name, value in
              ((value.name, value) for value in model.graph.inputs)}  # fmt: skip
    feeds = {
        name: random_array(*[2 if d is None and i == 0 else (queries if name == "q" else keys) if d is None else d
                             for i, d in enumerate(shape)], seed=ord(name))
        for name, shape in shapes.items()
    }  # fmt: skip
    after, _ = rewrite(model, ExpandAttention(), capabilities=NONE, feeds=(feeds,))
    assert operators(after).count("Trilu") == 1
    assert "Attention" not in operators(after)


def test_causal_attentions_of_the_same_lengths_share_their_mask() -> None:
    text = """g (float[B,2,S,4] q, float[B,2,T,4] k) => (float[B,2,S,4] y) {
        a = Attention <is_causal = 1> (q, q, q) b = Attention <is_causal = 1, scale = 0.3> (a, q, q)
        y = Attention <is_causal = 1> (b, k, k) }"""
    after, result = rewrite(graph_from(text), ExpandAttention(), capabilities=NONE)
    assert operators(after).count("Trilu") == 2  # [S, S] and [S, T]
    assert operators(after).count("Softmax") == 3
    assert not result.refused


@pytest.mark.parametrize("extra", ["float[S,T] mask", "bool[S,T] mask"])
def test_causal_attention_with_a_mask_is_refused(extra: str) -> None:
    after, result = rewrite(_model("is_causal = 1", mask=extra), ExpandAttention(), capabilities=NONE)
    assert operators(after) == ["Attention"]
    assert reasons(result) == ["it is causal and has a mask or a cache"]


def test_the_plain_form_is_lean() -> None:
    after, _ = rewrite(_model(), ExpandAttention(), capabilities=NONE)
    assert operators(after) == ["Transpose", "Mul", "MatMul", "Softmax", "MatMul"]


def test_a_target_with_a_kernel_keeps_attention() -> None:
    after, _ = rewrite(_model(), ExpandAttention())
    assert operators(after) == ["Attention"]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("softmax_precision = 1", "its softmax has a precision"),
        ("softmax_precision = 1, is_causal = 1", "its softmax has a precision"),
    ],
)
def test_what_the_function_body_must_do_is_refused(attributes: str, reason: str) -> None:
    after, result = rewrite(_model(attributes), ExpandAttention(), capabilities=NONE)
    assert operators(after) == ["Attention"]
    assert reasons(result)[0].startswith(reason)


def test_scores_that_are_an_output_of_the_graph_are_refused() -> None:
    model = graph_from(
        "g (float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,3] v) => (float[B,2,S,3] y, float[B,2,S,T] scores)"
        '{ y, "", "", scores = Attention (q, k, v) }'
    )
    after, result = rewrite(model, ExpandAttention(), capabilities=NONE)
    assert operators(after) == ["Attention"]
    assert reasons(result) == ["it gives its scores"]


@pytest.mark.parametrize(("columns", "expected"), [("T", "Softmax"), ("M", "Attention")])
def test_a_mask_that_may_be_shorter_than_the_keys_is_refused_from_opset_24_on(columns: str, expected: str) -> None:
    model = _model(mask=f"float[B,1,S,{columns}] mask")
    model.opset_imports[""] = 24
    feeds = {"q": random_array(2, 2, 5, 4), "k": random_array(2, 2, 4, 4), "v": random_array(2, 2, 4, 3)}
    feeds["mask"] = random_array(2, 1, 5, 4)
    after, result = rewrite(model, ExpandAttention(), capabilities=NONE, feeds=(feeds,))
    assert expected in operators(after)
    assert reasons(result) == (["its mask may be shorter than the keys"] if expected == "Attention" else [])


@pytest.mark.parametrize("kv", [2, 1])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("past", [True, False])
def test_a_cache_is_appended_and_given(past: bool, flat: bool, kv: int) -> None:
    if flat:
        data, output = f"float[B,S,8] q, float[B,S,{4 * kv}] k, float[B,S,{4 * kv}] v", "float[B,S,8] y"
        attributes = f"<q_num_heads = 2, kv_num_heads = {kv}>"
    else:
        data, output = f"float[B,2,S,4] q, float[B,{kv},S,4] k, float[B,{kv},S,4] v", "float[B,2,S,4] y"
        attributes = ""
    cache = f", float[B,1,S,T] mask, float[B,{kv},P,4] pk, float[B,{kv},P,4] pv" if past else ""
    given = "q, k, v, mask, pk, pv" if past else "q, k, v"
    model = graph_from(
        f"""g ({data}{cache}) => ({output}, float[B,{kv},T,4] key, float[B,{kv},T,4] value) {{
        y, key, value = Attention {attributes} ({given}) }}"""
    )
    feeds = []
    for b, s, p in ((1, 1, 3), (3, 4, 2), (2, 5, 0)):
        shapes = {"q": (b, s, 8) if flat else (b, 2, s, 4)}
        shapes |= dict.fromkeys("kv", (b, s, 4 * kv) if flat else (b, kv, s, 4))
        if past:
            shapes |= {"mask": (b, 1, s, s + p), "pk": (b, kv, p, 4), "pv": (b, kv, p, 4)}
        feeds.append({name: random_array(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())})
    after, result = rewrite(model, ExpandAttention(), capabilities=NONE, feeds=tuple(feeds))
    assert "Attention" not in operators(after)
    assert operators(after).count("Concat") == (2 if past else 0)
    assert len(result.applied) == 1
