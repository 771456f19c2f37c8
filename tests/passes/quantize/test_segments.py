"""A graph run in parts gives the values of the whole, each node once, within the memory bound."""

from __future__ import annotations

import numpy as np
import pytest

from passes.quantize.exposure import ExposedGraph
from passes.quantize.segments import Segments
from tests.support.rewriting import add_weights, graph_from, random_array

CHAIN = "g (float[N,M] x) => (float[N,M] d) { a = Tanh (x) b = Sigmoid (a) c = Exp (b) d = Add (c, a) }"
NAMES = ("x", "a", "b", "c", "d")


def segments_of(text: str, names: tuple[str, ...], segment_bytes: int, **weights: np.ndarray) -> Segments:
    model = add_weights(graph_from(text), **weights)
    return Segments(ExposedGraph(model, wanted=names, threads=1), names, segment_bytes)


def values_of(segments: Segments, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for arrays in segments.run(feeds, sample=0):
        assert not found.keys() & arrays.keys(), "each value comes once"
        found |= arrays
    return found


def parts(segments: Segments) -> list[tuple[int, int]]:
    return [(segment.part.start, segment.part.stop) for segment in segments.segments]


@pytest.mark.parametrize(("segment_bytes", "expected"), [(1 << 20, [(0, 4)]), (512, [(0, 2), (2, 4)]), (1, None)])
def test_the_parts_give_the_values_of_the_whole(segment_bytes: int, expected: list[tuple[int, int]] | None) -> None:
    segments = segments_of(CHAIN, NAMES, segment_bytes)
    x = random_array(4, 16)
    found = values_of(segments, x=x)
    assert parts(segments) == (expected or [(index, index + 1) for index in range(4)])
    a = np.tanh(x)
    b = 1 / (1 + np.exp(-a))
    for name, value in {"x": x, "a": a, "b": b, "c": np.exp(b), "d": np.exp(b) + a}.items():
        assert np.allclose(found[name], value, atol=1e-6)


def test_a_larger_sample_is_planned_for_and_a_smaller_or_slightly_larger_one_is_not() -> None:
    segments = segments_of(CHAIN, NAMES, 1000)

    def after(*shape: int) -> list[tuple[int, int]]:
        values_of(segments, x=random_array(*shape))
        return parts(segments)

    assert after(1, 16) == [(0, 4)]
    before = segments.segments
    assert after(1, 20) == [(0, 4)]
    assert segments.segments is before
    assert after(7, 16) == [(0, 2), (2, 4)]
    kept = segments.segments
    assert after(3, 3) == after(1, 20) == [(0, 2), (2, 4)]
    assert segments.segments is kept
    assert after(1000, 16) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_segment_that_stays_keeps_its_session() -> None:
    segments = segments_of(
        "g (float[N] x, float[M] y) => (float[N] b, float[M] d) { a = Tanh (x) b = Exp (a) c = Tanh (y) d = Exp (c) }",
        ("a", "b", "c", "d"),
        1000,
    )
    values_of(segments, x=random_array(200), y=random_array(100))
    before = {segment.part: segment.session for segment in segments.segments}
    values_of(segments, x=random_array(200), y=random_array(200))
    after = {segment.part: segment.session for segment in segments.segments}
    assert after.keys() != before.keys()
    assert any(before.get(part) is session for part, session in after.items())


def test_a_sequence_never_crosses_and_what_a_branch_captures_does() -> None:
    text = """g (float[N,4] x, bool p) => (float[N,4] y) {
        a = Tanh (x)
        s = SequenceConstruct (a, x)
        b = Exp (a)
        c = ConcatFromSequence <axis = 0> (s)
        m = ReduceMax (c)
        d = Neg (b)
        y = If (p) <then_branch = t () => (float[N,4] u) { u = Mul (d, m) },
                    else_branch = e () => (float[N,4] v) { v = Mul (a, m) }>
    }"""
    segments = segments_of(text, ("a", "b", "c", "d", "y"), 1)
    x = random_array(3, 4)
    for flag in (True, False):
        found = values_of(segments, x=x, p=np.array(flag))
        factor = -np.exp(np.tanh(x)) if flag else np.tanh(x)
        assert np.allclose(found["y"], factor * np.concatenate((np.tanh(x), x)).max(), atol=1e-6)
    assert (1, 4) in parts(segments), "from the sequence's making to its last reader"


def test_nodes_that_no_wanted_value_needs_are_left_out() -> None:
    text = "g (float[N] x) => (float[N] b, float[N] c) { a = Tanh (x) b = Exp (a) c = Neg (x) }"
    segments = segments_of(text, ("a",), 1 << 20)
    assert [node.op_type for node in segments.exposed.nodes] == ["Tanh"]
    assert set(values_of(segments, x=random_array(3))) == {"a"}


def test_a_segments_values_are_freed_before_the_next_runs() -> None:
    segments = segments_of(CHAIN, NAMES, 1)
    run = segments.run({"x": random_array(4, 16)}, sample=0)
    first, second = next(run), next(run)
    next(run)
    assert second == {}
    assert set(first) == {"x"}


def test_a_sample_with_another_number_of_axes_is_planned_for_anew() -> None:
    model = graph_from(CHAIN)
    model.graph.inputs[0].shape = None
    segments = Segments(ExposedGraph(model, wanted=NAMES, threads=1), NAMES, 512)
    for x in (random_array(4, 16), random_array(2, 4, 16)):
        np.testing.assert_allclose(values_of(segments, x=x)["a"], np.tanh(x), atol=1e-6)
