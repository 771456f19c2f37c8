from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from passes.cleanup.deduplicate_initializers import DeduplicateInitializers
from passes.serialization import load_model, save_model
from tests.support.mapped import resident_kib
from tests.support.rewriting import add_weights, graph_from, random_array, rewrite

TWO = """g (float[N,8] x, float[8,8] u, float[8,8] v, float[8,8] w) => (float[N,8] y) {
    a = MatMul (x, u)
    b = MatMul (a, v)
    y = MatMul (b, w)
}"""


def test_equal_weights_become_one() -> None:
    model = add_weights(graph_from(TWO), u=random_array(8, 8), v=random_array(8, 8, seed=1), w=random_array(8, 8))
    after, result = rewrite(model, DeduplicateInitializers(), is_exact=True)
    assert list(after.graph.initializers) == ["u", "v"]
    assert [event.node for event in result.applied] == ["w"]


def test_equal_bytes_of_another_shape_or_type_are_another_weight() -> None:
    model = graph_from(
        """g (float[2] x, float[2] u, int32[2] v, float[1,2] w) => (float[1,2] y) {
            a = Add (x, u)
            c = Cast <to = 1> (v)
            b = Add (a, c)
            y = Add (b, w)
        }"""
    )
    zeros = np.zeros(2, np.float32)
    add_weights(model, u=zeros, v=zeros.astype(np.int32), w=zeros.reshape(1, 2))
    _, result = rewrite(model, DeduplicateInitializers(), is_exact=True)
    assert not result.applied


def test_weights_in_a_file_are_compared_without_being_mapped(tmp_path: Path) -> None:
    big = random_array(64, 64)
    other = big.copy()
    other[-1, -1] += 1  # differs only behind the first bytes
    model = graph_from(TWO.replace("8", "64"))
    save_model(add_weights(model, u=big, v=other, w=big), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    after, _ = rewrite_without_running(loaded)
    assert list(after.graph.initializers) == ["u", "v"]
    assert resident_kib(tmp_path / "m.onnx.data") == 0


def test_weights_whose_file_was_replaced_are_compared_as_they_were(tmp_path: Path) -> None:
    arrays = {name: random_array(64, 64, seed=seed) for seed, name in enumerate("uv")}
    text = TWO.replace("8", "64")
    save_model(add_weights(graph_from(text), **arrays, w=arrays["u"]), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    zeros = dict.fromkeys("uvw", np.zeros((64, 64), np.float32))
    save_model(add_weights(graph_from(text), **zeros), tmp_path / "m.onnx")
    after, result = rewrite(loaded, DeduplicateInitializers(), is_exact=True)
    assert [event.node for event in result.applied] == ["w"]
    assert list(after.graph.initializers) == ["u", "v"]


def rewrite_without_running(model: ir.Model) -> tuple[ir.Model, object]:
    from passes.pipeline import Pipeline

    return Pipeline((DeduplicateInitializers(),)).run(model)
