from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from passes.catalogue import default_pipeline
from passes.errors import BadModel
from passes.execution import run_model
from passes.inline_weights import LEAST_BYTES, without_inline_weights
from passes.serialization import load_model, save_model
from tests.support.rewriting import random_array

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (bool c, float[N,130] x) => (float[N,M] y, float[N,130] z) {
    a = MatMul (x, w) k = Constant () y = MatMul (a, k)
    z = If (c) <then_branch = t () => (float[N,130] t_z) { b = Constant () t_z = MatMul (x, b) },
                else_branch = e () => (float[N,130] e_z) { e_z = Neg (x) }>
}"""


def _proto(*, odd: str = "") -> onnx.ModelProto:
    """Return a model with large weights as an initializer, in a Constant, and in a Constant of a subgraph."""
    proto = onnx.parser.parse_model(TEXT)
    proto.doc_string = odd  # moves the weights to any alignment
    proto.graph.initializer.append(numpy_helper.from_array(random_array(130, 140), "w"))
    constants = [proto.graph.node[1], proto.graph.node[3].attribute[0].g.node[0]]
    for node, shape in zip(constants, ((140, 150), (130, 130)), strict=True):
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(random_array(*shape), "k")))
    return proto


FEEDS = ({"c": np.array(True), "x": random_array(3, 130)},)


@pytest.mark.parametrize("odd", ["", "a", "ab", "abc"])
def test_weights_are_referred_to_in_place_and_everything_else_is_kept(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "m.onnx"
    proto = _proto(odd=odd)
    path.write_bytes(proto.SerializeToString())
    content = without_inline_weights(path)
    assert content is not None
    assert len(content) < 4096
    bare = onnx.ModelProto.FromString(content)
    data = path.read_bytes()
    for tensor in [bare.graph.initializer[0], bare.graph.node[1].attribute[0].t]:
        where = {entry.key: entry.value for entry in tensor.external_data}
        assert where["location"] == "m.onnx"
        tensor.raw_data = data[int(where["offset"]) :][: int(where["length"])]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    inner = bare.graph.node[3].attribute[0].g.node[0].attribute[0].t
    assert inner.data_location == onnx.TensorProto.EXTERNAL
    bare.graph.node[3].CopyFrom(proto.graph.node[3])
    assert bare == proto


@pytest.mark.parametrize("odd", ["", "a", "ab", "abc"])
def test_such_a_model_computes_the_same_after_every_way_of_saving(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_proto(odd=odd).SerializeToString())
    expected = run_model(ir.load(path), FEEDS)[0]
    loaded = load_model(path)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    optimized, _ = default_pipeline().run(loaded)
    save_model(optimized, tmp_path / "elsewhere.onnx")
    save_model(optimized, path)  # over the file that the weights lie in
    save_model(loaded, tmp_path / "original.onnx")
    for name in ("elsewhere", "m", "original"):
        result = run_model(load_model(tmp_path / f"{name}.onnx"), FEEDS)[0]
        for output, array in expected.items():
            np.testing.assert_allclose(result[output], array, rtol=1e-5, atol=1e-5)


def test_what_is_small_typed_or_external_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = _proto()
    w = proto.graph.initializer[0]
    w.float_data.extend(numpy_helper.to_array(w).reshape(-1))
    w.ClearField("raw_data")
    del proto.graph.node[1:]
    proto.graph.output[0].name = "a"
    del proto.graph.output[1:]
    path.write_bytes(proto.SerializeToString())
    assert path.stat().st_size > LEAST_BYTES
    assert without_inline_weights(path) is None
    np.testing.assert_array_equal(load_model(path).graph.initializers["w"].const_value.numpy(), random_array(130, 140))


def test_a_weight_that_is_too_short_for_its_shape_is_a_bad_model(tmp_path: Path) -> None:
    proto = _proto()
    proto.graph.initializer[0].dims[0] = 131
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadModel, match="'w' needs"):
        load_model(tmp_path / "m.onnx")


def test_a_file_cut_anywhere_is_a_bad_model(tmp_path: Path) -> None:
    data = _proto().SerializeToString()
    path = tmp_path / "m.onnx"
    source = random.Random(0)
    for length in [LEAST_BYTES, len(data) - 1, *(source.randrange(len(data)) for _ in range(60))]:
        path.write_bytes(data[:length])
        with pytest.raises(BadModel):
            load_model(path)


def test_damaged_bytes_are_a_bad_model_or_another_model_and_never_a_crash(tmp_path: Path) -> None:
    data = _proto().SerializeToString()
    path = tmp_path / "m.onnx"
    source = random.Random(0)
    heads = [at for at in range(len(data)) if at < 200 or at > len(data) - 400]
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for at in source.sample(heads, 2):
            damaged[at] = source.choice((0xFF, 0x80, 0x00, source.randrange(256)))
        path.write_bytes(damaged)
        try:
            load_model(path)
        except BadModel:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("head", [b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x3b", b"\x02\x01", b"\x3a"])
def test_lengths_that_never_end_and_wire_types_that_there_are_not_are_left_to_protobuf(
    tmp_path: Path, head: bytes
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(head + b"\xff" * LEAST_BYTES)
    assert without_inline_weights(path) is None
    with pytest.raises(BadModel):
        load_model(path)


def test_a_model_of_more_than_two_gigabytes_in_one_file_is_read_by_reference(tmp_path: Path) -> None:
    """protobuf can't parse it; its first weight is a hole in a sparse file."""
    path = tmp_path / "m.onnx"
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N,140] x) => (float[N,140] y) { i = Gather (x, z) y = MatMul (x, w) }"""
    )
    last = numpy_helper.from_array(random_array(140, 140), "w")
    length = (1 << 31) + 4096
    head = onnx.TensorProto(name="z", data_type=onnx.TensorProto.INT8, dims=[length]).SerializeToString()
    header = head + b"\x4a" + _varint(length)
    tail = onnx.GraphProto(initializer=[last]).SerializeToString()
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    first = b"\x2a" + _varint(len(header) + length) + header
    with path.open("wb") as file:
        file.write(proto.SerializeToString())
        file.write(b"\x3a" + _varint(len(graph) + len(first) + length + len(tail)) + graph + first)
        file.seek(length, 1)
        file.write(tail)
    model = load_model(path)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert (tensor.offset or 0) > 1 << 31
    np.testing.assert_array_equal(tensor.numpy(), random_array(140, 140))


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def test_loading_takes_no_memory_for_the_weights(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,4000] x) => (float[N,4000] y) { y = MatMul (x, w) }'
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4000, 4000), dtype=np.float32), "w"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    code = """if True:
        import sys
        from pathlib import Path
        from passes.serialization import load_model, save_model
        save_model(load_model(Path(sys.argv[1])), Path(sys.argv[2]))
        print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)
    """
    arguments = [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx")]
    root = Path(__file__).parents[2]
    run = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 110  # the weight alone has 64 MB, and was there twice
    assert (tmp_path / "o.onnx.data").stat().st_size == 64_000_000


@pytest.mark.parametrize("name", ["model.onnx", "blob"])
def test_weights_behind_a_link_are_referred_to_in_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / name).write_bytes(_proto().SerializeToString())
    link = tmp_path / "snapshot" / "model.onnx"
    link.symlink_to(Path("..") / "blobs" / name)
    model = load_model(link)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    (expected,) = run_model(ir.from_proto(_proto()), FEEDS)
    save_model(model, link)  # replaces the link, not the file behind it
    assert not link.is_symlink()
    assert (tmp_path / "blobs" / name).read_bytes() == _proto().SerializeToString()
    (found,) = run_model(load_model(link), FEEDS)
    assert expected.keys() == found.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
