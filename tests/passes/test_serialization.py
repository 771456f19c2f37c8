from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from passes import serialization
from passes.errors import BadModel, UsageError
from passes.execution import run_model
from passes.serialization import ALIGNMENT_BYTES, load_model, proto_without_weights, save_model
from tests.support.mapped import descriptors, resident_kib
from tests.support.rewriting import add_weights, graph_from, random_array

TEXT = """g (float[N,40] x, float[40,40] u, float[40,30] v, float[3] w) => (float[N,30] y) {
    a = MatMul (x, u) b = MatMul (a, v) c = ReduceSum <keepdims = 0> (w) y = Add (b, c)
}"""


def _model() -> ir.Model:
    arrays = {"u": random_array(40, 40), "v": random_array(40, 30, seed=1), "w": random_array(3, seed=2)}
    return add_weights(graph_from(TEXT), **arrays)


def _arrays(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: np.array(value.const_value.numpy()) for name, value in model.graph.initializers.items()}


def _assert_same(first: ir.Model, second: ir.Model) -> None:
    expected, actual = _arrays(first), _arrays(second)
    assert list(expected) == list(actual)
    for name in expected:
        np.testing.assert_array_equal(expected[name], actual[name])


def test_large_weights_lie_aligned_in_one_file_and_small_ones_inline(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    loaded = load_model(tmp_path / "m.onnx")
    _assert_same(_model(), loaded)
    tensors = [value.const_value for value in loaded.graph.initializers.values()]
    external = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    assert [tensor.offset % ALIGNMENT_BYTES for tensor in external] == [0, 0]
    assert len(external) == 2
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)


def test_saving_twice_gives_the_same_bytes_and_reads_no_mapping(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    first = [(tmp_path / name).read_bytes() for name in ("m.onnx", "m.onnx.data")]
    loaded = load_model(tmp_path / "m.onnx")
    (tmp_path / "again").mkdir()
    save_model(loaded, tmp_path / "again" / "m.onnx")
    assert [(tmp_path / "again" / name).read_bytes() for name in ("m.onnx", "m.onnx.data")] == first
    assert resident_kib(tmp_path / "m.onnx.data") == 0
    for value in loaded.graph.initializers.values():
        assert value.const_value is not None
        value.const_value.numpy().sum()
    assert resident_kib(tmp_path / "m.onnx.data") > 0


def _many(count: int) -> ir.Model:
    names = [f"w{i}" for i in range(count)]
    text = " ".join(f"x{i + 1} = Add (x{i}, w{i})" for i in range(count))
    inputs = ", ".join(f"float[400] {name}" for name in ("x0", *names))
    model = graph_from(f"g ({inputs}) => (float[400] x{count}) {{ {text} }}")
    return add_weights(model, **{name: random_array(400, seed=i) for i, name in enumerate(names)})


def test_a_file_of_many_weights_is_opened_once(tmp_path: Path) -> None:
    save_model(_many(40), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    before = [(tmp_path / name).read_bytes() for name in ("m.onnx", "m.onnx.data")]
    for value in loaded.graph.initializers.values():
        assert value.const_value is not None
        value.const_value.numpy()
    assert descriptors(data) == 2  # the file, and its mapping
    save_model(loaded, tmp_path / "m.onnx")
    assert [(tmp_path / name).read_bytes() for name in ("m.onnx", "m.onnx.data")] == before
    del value, loaded
    gc.collect()  # nodes and values refer to each other
    assert descriptors(data) == 0


def test_weights_with_a_second_link_are_read_and_saved(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    os.link(data, tmp_path / "installed")
    loaded = load_model(tmp_path / "m.onnx")
    for value in loaded.graph.initializers.values():
        assert value.const_value is not None
        value.const_value.numpy()
    (tmp_path / "out").mkdir()
    save_model(loaded, tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "m.onnx.data").read_bytes() == data.read_bytes()
    save_model(loaded, tmp_path / "m.onnx")
    assert data.stat().st_nlink == 1  # a new file: what the other link names is as it was


@pytest.mark.parametrize("fails", ["at once", "after some bytes", "never"])
def test_a_system_that_does_not_copy_files_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    calls: list[int] = []

    def copy(source: int, target: int, count: int, offset: int) -> int:
        calls.append(count)
        if fails == "at once" or len(calls) > 1:
            raise OSError(errno.EXDEV, "other device")
        data = os.pread(source, min(count, 1000), offset)
        return os.write(target, data)

    if fails != "never":
        monkeypatch.setattr(os, "copy_file_range", copy)
    (tmp_path / "out").mkdir()
    save_model(loaded, tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "m.onnx.data").read_bytes() == (tmp_path / "m.onnx.data").read_bytes()


def test_saving_over_the_file_it_came_from_keeps_every_copy_right(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(_model(), path)
    loaded = load_model(path)
    changed = loaded.clone()
    value = changed.graph.initializers["u"]
    value.const_value = ir.Tensor(random_array(80, 40, seed=7), name="u")  # shifts what follows
    value.shape = ir.Shape([80, 40])
    save_model(changed, path)
    _assert_same(changed, load_model(path))
    _assert_same(_model(), loaded)
    save_model(loaded, tmp_path / "back.onnx")
    _assert_same(_model(), load_model(tmp_path / "back.onnx"))
    save_model(changed, tmp_path / "changed.onnx")
    _assert_same(changed, load_model(tmp_path / "changed.onnx"))


def test_a_full_disk_is_said_and_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    save_model(_model(), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(file: Path, data: bytes) -> None:
        file.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(serialization, "_write", full)
    with pytest.raises(UsageError, match="No space left"):
        save_model(_model(), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save_model(_model(), tmp_path / "absent" / "m.onnx")


def test_a_file_cut_anywhere_is_a_bad_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(_model(), path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(BadModel):
            load_model(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello\nworld\n", b"\x00" * 100, bytes(range(256)), b"PK\x03\x04" + b"\xff" * 50]
)
def test_what_is_no_model_is_a_bad_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BadModel):
        load_model(tmp_path / "m.onnx")


def test_random_bytes_are_a_bad_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for length in (1, 2, 7, 50, 400):
        for _ in range(20):
            (tmp_path / "m.onnx").write_bytes(random.integers(0, 256, length, dtype=np.uint8).tobytes())
            with pytest.raises(BadModel):
                load_model(tmp_path / "m.onnx")


def test_a_missing_file_a_folder_and_an_old_opset(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="There is no model file"):
        load_model(tmp_path / "m.onnx")
    with pytest.raises(BadModel):
        load_model(tmp_path)
    proto = ir.to_proto(graph_from("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=8))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadModel, match="uses opset 8"):
        load_model(tmp_path / "m.onnx")


def test_a_value_that_nothing_makes(tmp_path: Path) -> None:
    proto = ir.to_proto(graph_from("g (float[2] x) => (float[2] y) { y = Add (x, z) }"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadModel, match="reads 'z', which nothing makes"):
        load_model(tmp_path / "m.onnx")
    proto = ir.to_proto(graph_from("g (float[2] x) => (float[2] y) { y = Relu (x) }"))
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    proto.graph.output[1].name = "z"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadModel, match="nothing makes the output 'z'"):
        load_model(tmp_path / "m.onnx")


def _with_location(tmp_path: Path, location: str, *, length: int | None = None) -> Path:
    save_model(_model(), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            if entry.key == "length" and length is not None:
                entry.value = str(length)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "m.onnx"


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../secret", "outside its folder"),
        ("/etc/passwd", "outside its folder"),
        ("a/../../x", "outside its folder"),
        ("absent.data", "is missing"),
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str, words: str) -> None:
    with pytest.raises(BadModel, match=words):
        load_model(_with_location(tmp_path, location))


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "outside").write_bytes(b"\0" * 100000)
    (inner / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(BadModel, match="outside its folder"):
        load_model(_with_location(inner, "link"))


def test_external_data_that_is_too_short_or_mislabelled(tmp_path: Path) -> None:
    path = _with_location(tmp_path, "m.onnx.data", length=16)
    with pytest.raises(BadModel, match="needs 6400 bytes"):
        load_model(path)
    save_model(_model(), path)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BadModel, match="ends at byte"):
        load_model(path)


def test_the_model_without_weights_is_small_and_infers(tmp_path: Path) -> None:
    model = _model()
    proto = proto_without_weights(model)
    assert proto.ByteSize() < 2000
    inferred = onnx.shape_inference.infer_shapes(proto)
    assert {info.name for info in inferred.graph.value_info} >= {"a", "b", "c"}
    _assert_same(_model(), model)


@pytest.mark.parametrize("has_weight", [True, False])
def test_a_tensor_of_a_node_attribute_in_another_file_is_saved_inside_the_model(
    tmp_path: Path, *, has_weight: bool
) -> None:
    array, weight = random_array(16), random_array(16, 32)
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (bool c, float[16] x) => (float[16] y, float[n] z) {
            y = If (c) <then_branch = t () => (float[16] t_y) { k = Constant () t_y = Add (x, k) },
                        else_branch = e () => (float[16] e_y) { e_y = Neg (x) }>
            z = Identity (x)
        }"""
    )
    if has_weight:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
        proto.graph.node[1].CopyFrom(onnx.helper.make_node("MatMul", ["x", "w"], ["z"]))
    constant = proto.graph.node[0].attribute[0].g.node[0]
    constant.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(array, "k")))
    (tmp_path / "source").mkdir()
    onnx.save_model(
        proto,
        tmp_path / "source" / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=10,
        convert_attribute=True,
    )
    loaded = load_model(tmp_path / "source" / "m.onnx")
    save_model(loaded, tmp_path / "m.onnx")
    (tmp_path / "source" / "m.bin").unlink()
    feeds = ({"c": np.array(True), "x": random_array(16, seed=1)},)
    result = run_model(load_model(tmp_path / "m.onnx"), feeds)[0]["y"]
    np.testing.assert_array_equal(result, feeds[0]["x"] + array)


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4] x) => (float[n, 4] y) {
            a = Relu(x)
            y = Neg(a)
        }"""
    )
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    onnx.save(proto, tmp_path / "unsorted.onnx")
    model = load_model(tmp_path / "unsorted.onnx")
    assert [node.op_type for node in model.clone().graph] == ["Relu", "Neg"]


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4] x) => (float[n, 4] y) {
            a = Relu(x)
            y = Neg(a)
        }"""
    )
    proto.graph.node[0].input[0] = "y"
    onnx.save(proto, tmp_path / "cycle.onnx")
    with pytest.raises(BadModel, match="cycle"):
        load_model(tmp_path / "cycle.onnx")


def test_elements_that_share_bytes_survive_saving_over_their_file(tmp_path: Path) -> None:
    import ml_dtypes

    array = (np.arange(4096) % 16 - 8).astype(ml_dtypes.int4).reshape(64, 64)
    model = graph_from("g (float[64] x) => (float[64,64] y) { f = Cast <to = 1> (w) y = Mul (x, f) }")
    tensor = ir.Tensor(array, dtype=ir.DataType.INT4, name="w")
    value = ir.Value(name="w", type=ir.TensorType(tensor.dtype), shape=ir.Shape([64, 64]), const_value=tensor)
    node = model.graph.node(0)
    node.replace_input_with(0, value)
    model.graph.register_initializer(value)
    save_model(model, tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx.data").read_bytes()
    loaded = load_model(tmp_path / "m.onnx")
    save_model(loaded, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").read_bytes() == before
    kept = loaded.graph.initializers["w"].const_value
    assert kept is not None
    np.testing.assert_array_equal(kept.numpy(), array)


def _cached(tmp_path: Path) -> Path:
    """Return a model in the layout of a download cache: a folder of links to a store of files named by their hash."""
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1a2b" / "onnx"
    store.mkdir()
    snapshot.mkdir(parents=True)
    save_model(_model(), store / "m.onnx")
    proto = onnx.load(store / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "m.onnx_data"
    (store / "0f0f").write_bytes(proto.SerializeToString())
    (store / "m.onnx").unlink()
    (store / "m.onnx.data").rename(store / "7e7e")
    (snapshot / "m.onnx").symlink_to("../../../blobs/0f0f")
    (snapshot / "m.onnx_data").symlink_to("../../../blobs/7e7e")
    return snapshot / "m.onnx"


def test_a_model_and_weights_that_are_links_to_one_store_are_read_and_saved(tmp_path: Path) -> None:
    path = _cached(tmp_path)
    model = load_model(path)
    _assert_same(_model(), model)
    save_model(model, tmp_path / "out.onnx")
    _assert_same(_model(), load_model(tmp_path / "out.onnx"))
    feeds = [{"x": random_array(2, 40)}]
    np.testing.assert_array_equal(run_model(model, feeds)[0]["y"], run_model(_model(), feeds)[0]["y"])


def test_weights_that_are_a_link_to_another_place_than_the_model_s_are_refused(tmp_path: Path) -> None:
    path = _cached(tmp_path)
    data = path.with_name("m.onnx_data")
    data.unlink()
    (tmp_path / "secret").write_bytes(b"\0" * 100000)
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(BadModel, match="outside its folder"):
        load_model(path)


def test_a_model_in_place_does_not_follow_its_weights_into_a_store(tmp_path: Path) -> None:
    path = _cached(tmp_path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(BadModel, match="outside its folder"):
        load_model(path)


def test_the_reason_of_an_unreadable_file_is_the_first_one(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>\ng (float[2] x) => (float[2] y) { y = Neg (x) y = Abs (x) }'
    )
    (tmp_path / "twice.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadModel, match="'y'") as refused:
        load_model(tmp_path / "twice.onnx")
    assert "_deserialize_graph" not in refused.value.message


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "l" : 1]>\ng (float[2] x) => (float[2] y) { y = l.f (x) }\n'
        '<domain: "l", opset_import: ["" : 18, "l" : 1]> f (a) => (b) { b = l.f (a) }'
    )
    (tmp_path / "circle.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadModel, match="call themselves, without an end: f -> f"):
        load_model(tmp_path / "circle.onnx")
