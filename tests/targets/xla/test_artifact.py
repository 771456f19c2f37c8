"""Artifacts: symbolic shapes, bounds, precisions, weights, threads, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from passes.errors import ArtifactRefused, BuildFailed, UsageError
from targets.base import Artifact, BuildOptions, DimRange
from targets.manifest import hashes_of, read_manifest, write_manifest
from targets.xla import runner as runner_module
from targets.xla.target import XlaTarget
from targets.xla.weights import FILE_NAME, read_weights
from tests.support.small_models import SMALL_MODELS, sqnr_db, unoptimized

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
POSITIONS = """g (int64[batch, sequence] ids) => (float[batch, sequence, 4] y) {
    words = Gather(table, ids)
    s = Shape <start = 1> (ids)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    place = Slice(positions, zero, s, one)
    y = Add(words, place)
}"""
RESHAPES = """g (float[batch, sequence, 6] x) => (float[batch, 2, sequence, 3] y) {
    b = Shape <start = 0, end = 1> (x)
    s = Shape <start = 1, end = 2> (x)
    tail = Constant <value_ints = [2, 3]> ()
    shape = Concat <axis = 0> (b, s, tail)
    split = Reshape(x, shape)
    y = Transpose <perm = [0, 2, 1, 3]> (split)
}"""

EXPANDS = """g (float[batch, sequence, 2] x, float[1, 1, 2] z)
    => (float[batch, sequence, 2] y, int64[sequence] places) {
    shape = Shape(x)
    rank = Constant <value_ints = [3]> ()
    ones = ConstantOfShape <value = int64[1] {1}> (rank)
    minus = Constant <value_int = -1> ()
    negative = Mul(ones, minus)
    open = Equal(shape, negative)
    wanted = Where(open, ones, shape)
    y = Expand(z, wanted)
    one = Constant <value_int = 1> ()
    length = Gather <axis = 0> (shape, one)
    zero = Constant <value_int = 0> ()
    places = Range(zero, length, one)
}"""


def model_from(text: str, **constants: np.ndarray) -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(HEADER + text))
    for name, array in constants.items():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


def build(model: ir.Model, out: Path, **options) -> Artifact:
    target, chosen = XlaTarget(), BuildOptions(**options)
    assert target.blockers(model, chosen) == ()
    return target.build(model, out, chosen)


def positions() -> ir.Model:
    random = np.random.default_rng(0)
    return model_from(
        POSITIONS,
        table=random.standard_normal((11, 4)).astype(np.float32),
        positions=random.standard_normal((1, 7, 4)).astype(np.float32),
    )


def test_shape_arithmetic_over_symbols(tmp_path: Path):
    model = model_from(RESHAPES)
    artifact = build(model, tmp_path)
    assert artifact.manifest.outputs[0].shape == ("batch", 2, "sequence", 3)
    with XlaTarget().open(artifact) as runner:
        for batch, sequence in ((1, 1), (3, 5)):
            feeds = {"x": np.random.default_rng(batch).standard_normal((batch, sequence, 6)).astype(np.float32)}
            np.testing.assert_array_equal(runner(feeds)["y"], unoptimized(model, feeds)["y"])


def test_expand_by_a_shape_that_is_compared_with_minus_one(tmp_path: Path):
    model = model_from(EXPANDS)
    artifact = build(model, tmp_path)
    assert artifact.manifest.outputs[0].shape == ("batch", "sequence", 2)
    feeds = {"x": np.zeros((2, 3, 2), np.float32), "z": np.array([[[1, 2]]], np.float32)}
    with XlaTarget().open(artifact) as runner:
        actual, expected = runner(feeds), unoptimized(model, feeds)
    for name, reference in expected.items():
        np.testing.assert_array_equal(actual[name], reference)
        assert actual[name].dtype == reference.dtype


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("kernel", "stride", "pad", "size"), [(2, 2, 1, 3), (1, 2, 0, 4), (2, 3, 0, 6)])
def test_ceil_mode_drops_the_last_window_of_a_symbolic_size(
    tmp_path: Path, operator: str, kernel: int, stride: int, pad: int, size: int
):
    model = model_from(f"""g (float[n, 1, h, 1] x) => (float[n, 1, m, 1] y) {{
        y = {operator} <kernel_shape = [{kernel}, 1], strides = [{stride}, 1], pads = [{pad}, 0, {pad}, 0],
            ceil_mode = 1> (x)
    }}""")
    model.opset_imports[""] = 22  # since which the specification says so
    artifact = build(model, tmp_path)
    with XlaTarget().open(artifact) as runner:
        for more in (0, 1, 5):
            feeds = {"x": np.arange(size + more, dtype=np.float32).reshape(1, 1, -1, 1)}
            np.testing.assert_allclose(runner(feeds)["y"], unoptimized(model, feeds)["y"])


DIVIDES = """g (float[sequence, 2] x) => (int64[1] cut, int64[1] negative, int64[1] half) {
    size = Shape <start = 0, end = 1> (x)
    ten = Constant <value_ints = [10]> ()
    three = Constant <value_ints = [3]> ()
    two = Constant <value_ints = [2]> ()
    less = Sub(size, ten)
    cut = Div(less, three)
    opposite = Neg(size)
    negative = Div(opposite, two)
    half = Div(size, two)
}"""


def test_a_symbolic_quotient_is_cut_toward_zero(tmp_path: Path):
    model = model_from(DIVIDES)
    with XlaTarget().open(build(model, tmp_path)) as runner:
        for size in (5, 8, 11, 17):
            feeds = {"x": np.zeros((size, 2), np.float32)}
            actual, expected = runner(feeds), unoptimized(model, feeds)
            assert {name: array.tolist() for name, array in actual.items()} == {
                name: array.tolist() for name, array in expected.items()
            }


SLICES = """g (float[s, 2] x) => (float[q, 2] y) {
    one = Constant <value_ints = [1]> ()
    zero = Constant <value_ints = [0]> ()
    back = Constant <value_ints = [-3]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    size = Shape <start = 0, end = 1> (x)
    FORM
}"""


@pytest.mark.parametrize(
    ("form", "bounds"),
    [
        ("y = Slice(x, back, end, zero)", ["s - 3 >= 0"]),
        ("y = Slice(x, zero, back, zero)", ["s - 3 >= 0"]),
        ("start = Add(size, back) y = Slice(x, start, size, zero)", ["s - 3 >= 0"]),
        ("start = Neg(size) rows = Slice(table, start, end, zero) y = Add(x, rows)", ["- s + 9 >= 0"]),
        ("y, other = Split <axis = 0, num_outputs = 2> (x)", []),
    ],
)
def test_slices_and_splits_of_symbolic_axes_are_right_within_their_bounds(form: str, bounds: list[str], tmp_path: Path):
    table = {"table": np.random.default_rng(0).standard_normal((9, 2)).astype(np.float32)} if "table" in form else {}
    model = model_from(SLICES.replace("FORM", form), **table)
    artifact = build(model, tmp_path)
    assert artifact.manifest.details["bounds"] == bounds
    with XlaTarget().open(artifact) as runner:
        for size in (3, 4, 7, 9):
            feeds = {"x": np.random.default_rng(size).standard_normal((size, 2)).astype(np.float32)}
            np.testing.assert_allclose(runner(feeds)["y"], unoptimized(model, feeds)["y"], rtol=0, atol=1e-6)
        if bounds:
            with pytest.raises(UsageError) as refused:
                runner({"x": np.zeros((2 if "3" in bounds[0] else 10, 2), np.float32)})
            assert bounds[0] in refused.value.hint


HALVES = """g (float[batch, 1, height, 8] x) => (float[batch, 2, height, 8] y, float[batch, 1, h, 4] half) {
    half = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
    whole = ConvTranspose <strides = [2, 2]> (half, v)
    y = Concat <axis = 1> (x, whole)
}"""


def test_what_is_halved_and_doubled_takes_even_sizes(tmp_path: Path):
    model = model_from(HALVES, w=np.ones((1, 1, 3, 3), np.float32), v=np.ones((1, 1, 2, 2), np.float32))
    artifact = XlaTarget().build(model, tmp_path, BuildOptions())
    assert artifact.manifest.details["bounds"] == ["height is a multiple of 2"]
    assert artifact.manifest.outputs[0].shape == ("batch", 2, "height", 8)
    assert artifact.manifest.outputs[1].shape == ("batch", 1, "height_over_2", 4)
    with XlaTarget().open(artifact) as runner:
        for height in (2, 10):
            feeds = {"x": np.random.default_rng(height).standard_normal((3, 1, height, 8)).astype(np.float32)}
            for name, value in runner(feeds).items():
                np.testing.assert_allclose(value, unoptimized(model, feeds)[name], rtol=0, atol=1e-5)
        with pytest.raises(UsageError, match="sizes") as refused:
            runner({"x": np.ones((3, 1, 5, 8), np.float32)})
        assert "height is a multiple of 2" in refused.value.hint


def test_samples_of_an_odd_size_keep_a_halved_graph_blocked():
    model = model_from(HALVES, w=np.ones((1, 1, 3, 3), np.float32), v=np.ones((1, 1, 2, 2), np.float32))
    found = XlaTarget().blockers(model, BuildOptions(dims={"height": DimRange(2, 4, 7)}))
    assert [blocker.operator for blocker in found] == ["Concat"]


def test_a_table_of_positions_bounds_the_sequence(tmp_path: Path):
    model = positions()
    artifact = build(model, tmp_path)
    assert artifact.manifest.details["bounds"] == ["sequence <= 7"]
    with XlaTarget().open(artifact) as runner:
        feeds = {"ids": np.random.default_rng(0).integers(0, 11, (2, 7))}
        np.testing.assert_allclose(runner(feeds)["y"], unoptimized(model, feeds)["y"], rtol=1e-6)
        with pytest.raises(UsageError, match="sequence <= 7"):
            runner({"ids": np.zeros((2, 8), np.int64)})
        with pytest.raises(UsageError):
            runner({"ids": np.zeros((0, 7), np.int64)})


def test_fixed_shapes_need_sizes(tmp_path: Path):
    model, settings = positions(), {"shapes": "fixed"}
    with pytest.raises(UsageError, match="batch, sequence"):
        XlaTarget().build(model, tmp_path, BuildOptions(settings=settings))
    dims = {"batch": DimRange(1, 2, 4), "sequence": DimRange(1, 5, 7)}
    artifact = build(model, tmp_path, settings=settings, dims=dims)
    assert artifact.manifest.inputs[0].shape == (2, 5)


@pytest.mark.parametrize(("precision", "least_db"), [("bf16", 30.0), ("fp16", 50.0)])
def test_low_precision_computes_and_stores_in_it(tmp_path: Path, precision: str, least_db: float):
    small = SMALL_MODELS["convolutions"]
    artifact = build(small.model(), tmp_path, precision=precision)
    stored = read_weights(tmp_path / FILE_NAME)
    assert {array.dtype.name for array in stored.values()} == {{"bf16": "bfloat16", "fp16": "float16"}[precision]}
    feeds = small.feeds(3, 1)
    with XlaTarget().open(artifact) as runner:
        actual = runner(feeds)["logits"]
    assert actual.dtype == np.float32
    found = sqnr_db(actual, unoptimized(small.model(), feeds)["logits"])
    assert least_db <= found < 80  # higher would mean that it did not compute in low precision


def test_a_huge_mask_constant_stays_finite_in_low_precision(tmp_path: Path):
    text = """g (float[n, 32] x) => (float[n, 32] y) { y = Max(x, lowest) }"""
    model = model_from(text, lowest=np.full((1, 32), np.finfo(np.float32).min, np.float32))
    artifact = build(model, tmp_path, precision="bf16")
    with XlaTarget().open(artifact) as runner:
        actual = runner({"x": np.full((1, 32), -np.inf, np.float32)})["y"]
    assert np.isfinite(actual).all()


def test_weights_are_apart_from_the_program(tmp_path: Path):
    import safetensors.numpy

    model = SMALL_MODELS["mlp"].model()
    build(model, tmp_path)
    ours = read_weights(tmp_path / FILE_NAME)
    theirs = safetensors.numpy.load_file(tmp_path / FILE_NAME)
    assert set(ours) == set(theirs) == {"w1", "w2"}  # biases of up to 16 numbers are part of the program
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)


def test_a_corrupted_weight_turns_the_result_wrong(tmp_path: Path):
    small = SMALL_MODELS["mlp"]
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    artifact = build(small.model(), good)
    shutil.copytree(artifact.path, bad)
    content = bytearray((bad / FILE_NAME).read_bytes())
    for sign in range(1, 1 + 12 * 4, 4):
        content[-sign] ^= 0x80  # negates one of the last twelve weights
    (bad / FILE_NAME).write_bytes(content)
    with pytest.raises(ArtifactRefused, match="changed"), XlaTarget().open(Artifact(bad, artifact.manifest)):
        pass
    # With the manifest forged to match, only the numbers can tell; and they do.
    manifest = read_manifest(bad, verify_files=False)
    forged = type(manifest)(
        **{
            **{field: getattr(manifest, field) for field in manifest.__dataclass_fields__},
            "files": hashes_of(bad, manifest.files),
        }
    )
    write_manifest(bad, forged)
    feeds = small.feeds(4, 1)
    reference = unoptimized(small.model(), feeds)["y"]
    with XlaTarget().open(artifact) as runner:
        assert sqnr_db(runner(feeds)["y"], reference) > 100
    with XlaTarget().open(Artifact(bad, forged)) as runner:
        assert sqnr_db(runner(feeds)["y"], reference) < 40


def test_compiles_each_shape_once(tmp_path: Path):
    small = SMALL_MODELS["mlp"]
    with XlaTarget().open(build(small.model(), tmp_path), threads=1) as runner:
        for batch in (1, 2, 1, 2):
            runner(small.feeds(batch, 1))
        assert len(runner.compiled) == 2
        assert runner.threads == 1
        assert runner.pool_threads >= 1


def test_keeps_the_programs_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner_module, "KEPT_SHAPES", 2)
    small = SMALL_MODELS["mlp"]
    with XlaTarget().open(build(small.model(), tmp_path)) as runner:
        for batch in (1, 2, 1, 3):
            runner(small.feeds(batch, 1))
        assert list(runner.compiled) == [((1, 6),), ((3, 6),)]


def test_keeps_no_more_programs_than_their_weights_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = SMALL_MODELS["mlp"]
    with XlaTarget().open(build(small.model(), tmp_path)) as runner:
        assert runner.weight_bytes == sum(array.nbytes for array in read_weights(tmp_path / FILE_NAME).values())
        for limit, kept in ((2 * runner.weight_bytes, 2), (1, 1)):
            monkeypatch.setattr(runner_module, "KEPT_BYTES", limit)
            for batch in (1, 2, 3, 4):
                runner(small.feeds(batch, 1))
            runner(small.feeds(5, 1))
            assert len(runner.compiled) == kept
            runner.compiled.clear()


@pytest.mark.parametrize("name", ["max", "min", "mod", "floordiv"])
def test_dimensions_may_have_the_names_of_operations(tmp_path: Path, name: str):
    artifact = build(model_from(f"g (float[{name}, 2] x) => (float[{name}, 2] y) {{ y = Neg(x) }}"), tmp_path)
    assert artifact.manifest.outputs[0].shape == (name, 2)


def test_asks_xla_for_no_more_threads_than_there_are_processors():
    code = "from targets.xla.backend import load_jax, start_pool; load_jax(); print(start_pool(100_000))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) <= (os.cpu_count() or 1)


def test_program_holds_no_source_path(tmp_path: Path):
    artifact = build(SMALL_MODELS["tokens"].model(), tmp_path)
    program = (artifact.path / "program.jax_export").read_bytes()
    assert b".py" not in program
    assert str(Path(__file__).resolve().parents[3]).encode() not in program


def test_64_bit_types_are_not_left_on(tmp_path: Path):
    import jax

    small = SMALL_MODELS["tokens"]
    with XlaTarget().open(build(small.model(), tmp_path)) as runner:
        runner(small.feeds(2, 3))
        assert not jax.config.jax_enable_x64
    assert jax.numpy.arange(2).dtype == np.int32


def test_build_names_the_node_that_stops_it(tmp_path: Path):
    model = model_from("""g (float[n] x) => (int64[1, m] y) { y = NonZero(x) }""")
    with pytest.raises(BuildFailed, match="NonZero 'y': its input 0 sets a shape, and depends on the data"):
        XlaTarget().build(model, tmp_path, BuildOptions())
