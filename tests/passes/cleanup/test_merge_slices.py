from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.cleanup.merge_slices import MergeSlices
from passes.matching import constant_integers
from tests.support.rewriting import graph_from, operators, reasons, rewrite

CONSTANTS = "\n".join(
    [
        *(f"v{n} = Constant <value = int64[1] {{{n}}}> ()" for n in range(7)),
        "m1 = Constant <value = int64[1] {-1}> () m2 = Constant <value = int64[1] {-2}> ()",
        "all = Constant <value = int64[1] {9223372036854775807}> ()",
        "v24 = Constant <value = int64[2] {2, 4}> ()",
    ]
)


def _model(body: str, outputs: str = "float y") -> ir.Model:
    model = graph_from(f"g (float[N,6] x, int64[1] at) => ({outputs}) {{ {CONSTANTS} {body} }}")
    for value in model.graph.outputs:
        value.shape = None
    return model


def _left(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


SLICES = {
    "same axis": ("a = Slice (x, v1, v5, v1) y = Slice (a, v1, v3, v1)", [2], [4], [1]),
    "to the end": ("a = Slice (x, v1, v5, v1) y = Slice (a, v2, all, v1)", [3], [5], [1]),
    "from behind": ("a = Slice (x, v1, all, v1) y = Slice (a, m2, all, v1)", [4], [6], [1]),
    "past the end": ("a = Slice (x, v1, v4, v1) y = Slice (a, v1, v6, v1)", [2], [4], [1]),
    "symbolic": ("a = Slice (x, v1, all, v0) y = Slice (a, v0, v1, v0)", [1], [2], [0]),
    "two axes": ("a = Slice (x, v1, v5, v1) y = Slice (a, v0, v1, v0)", [0, 1], [1, 5], [0, 1]),
    "no axes": ("a = Slice (x, v1, v5, v1, v1) y = Slice (a, v0, v1)", [0, 1], [1, 5], [0, 1]),
}


@pytest.mark.parametrize(("body", "starts", "ends", "axes"), SLICES.values(), ids=SLICES)
def test_two_slices_are_one(body: str, starts: list[int], ends: list[int], axes: list[int]) -> None:
    after, _ = rewrite(_model(body), MergeSlices(), is_exact=True)
    (node,) = [node for node in after.graph if node.op_type == "Slice"]
    assert [constant_integers(value) for value in node.inputs[1:]] == [starts, ends, axes]
    assert rewrite(after, MergeSlices())[1].applied == ()


def test_slices_that_cover_an_axis_are_a_split() -> None:
    body = """b = Slice (x, v3, all, v1) a = Slice (x, v0, v2, m1) c = Slice (x, v2, v3, v1) d = Slice (x, v0, v2, v1)
        n = Neg (d) y = Concat <axis = 1> (b, c, a, n)"""
    after, result = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert _left(after) == ["Split", "Neg", "Concat"]
    assert [event.rule for event in result.applied] == ["slices-cover"]
    assert rewrite(after, MergeSlices())[1].applied == ()


def test_parts_that_are_outputs_of_the_graph_keep_their_names() -> None:
    after, _ = rewrite(
        _model("y = Slice (x, v3, all, v1) z = Slice (x, v0, v3, v1)", "float y, float z"), MergeSlices(), is_exact=True
    )
    assert _left(after) == ["Split"]


FORWARDED = {
    "concat split": "r = Neg (x) a, b = Split <axis = 1> (r, v24) c = Concat <axis = -1> (a, b) y = Abs (c)",
    "split into one": "r = Neg (x) a = Split <axis = 1, num_outputs = 1> (r) y = Abs (a)",
}


@pytest.mark.parametrize("body", FORWARDED.values(), ids=FORWARDED)
def test_what_restores_the_tensor_goes(body: str) -> None:
    after, _ = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert _left(after)[-1] == "Abs"
    assert "Concat" not in _left(after)
    assert next(reversed(list(after.graph))).inputs[0].producer().op_type == "Neg"  # type: ignore[union-attr]


def test_concat_of_concat_is_one() -> None:
    body = "n = Neg (x) a = Concat <axis = 1> (x, n) b = Concat <axis = -1> (n, x) y = Concat <axis = 1> (a, n, b)"
    after, _ = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert _left(after) == ["Neg", "Concat"]
    assert len(list(after.graph)[-1].inputs) == 5


REFUSED = {
    "varying": ("a = Slice (x, v0, at, v1) y = Slice (a, v0, v1, v0)", "not known numbers"),
    "from behind a symbol": ("a = Slice (x, v1, v5, v1) y = Slice (a, m2, all, v0)", "not known numbers"),
    "steps": ("a = Slice (x, v0, v6, v1, v2) y = Slice (a, v0, v1, v0)", "not known numbers"),
    "overlap": ("a = Slice (x, v0, v3, v1) b = Slice (x, v2, v6, v1) y = Concat <axis = 1> (a, b)", "overlap"),
    "gap": ("a = Slice (x, v0, v3, v1) b = Slice (x, v4, v6, v1) y = Concat <axis = 1> (a, b)", "leave out"),
    "read twice": (
        "n = Neg (x) a = Concat <axis = 1> (x, n) b = Abs (a) y = Concat <axis = 1> (a, b)",
        "another reader",
    ),
}


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(body: str, reason: str) -> None:
    _, result = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert not result.applied
    assert any(reason in why for why in reasons(result))


@pytest.mark.parametrize(
    "body",
    [
        "a, b = Split <axis = 1> (x, v24) y = Concat <axis = 1> (b, a)",
        "a, b = Split <axis = 1, num_outputs = 2> (x) y = Concat <axis = 0> (a, b)",
        "a = Concat <axis = 0> (x, x) y = Concat <axis = 1> (a, a)",
        "a = Slice (x, v0, v3, v1) b = Slice (x, v0, v1, v0) y = Concat <axis = 0> (b, x)",
    ],
)
def test_other_orders_and_axes_stay(body: str) -> None:
    _, result = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert not result.applied


def test_a_cover_before_opset_13_is_refused() -> None:
    body = f"{CONSTANTS} a = Slice (x, v0, v3, v1) b = Slice (x, v3, v6, v1) y = Concat <axis = 1> (b, a)"
    model = graph_from(f"g (float[N,6] x) => (float[N,6] y) {{ {body} }}", opset=12)
    _, result = rewrite(model, MergeSlices(), is_exact=True)
    assert not result.applied
    assert "Split into given lengths needs opset 13, the model has 12" in reasons(result)


def test_a_cover_that_two_slices_in_a_row_complete_is_found_in_one_run() -> None:
    body = "a = Slice (x, v0, v4, v1) c = Slice (a, v0, v3, v1) b = Slice (x, v3, v6, v1) y = Concat <axis = 1> (b, c)"
    after, _ = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert _left(after) == ["Split", "Concat"]


def test_slices_that_leave_out_a_part_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.cleanup import merge_slices

    looked = 0
    cut_of = merge_slices.cut_of

    def counted(*given: object) -> object:
        nonlocal looked
        looked += 1
        return cut_of(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(merge_slices, "cut_of", counted)
    parts = [f"p{n} = Slice (x, v{n}, v{n + 1}, v1)" for n in range(5)]
    body = " ".join(parts) + " y = Concat <axis = 1> (p0, p1, p2, p3, p4)"
    _, result = rewrite(_model(body), MergeSlices(), is_exact=True)
    assert looked == len(parts)
    assert reasons(result) == ["the slices of 'x' overlap or leave out a part"]
