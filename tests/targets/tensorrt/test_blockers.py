"""Everything that TensorRT refuses is found without TensorRT, all of it at once."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from targets.base import BuildOptions
from targets.tensorrt.capabilities import KERNELS, NOT_BUILT
from targets.tensorrt.session import open_session
from targets.tensorrt.target import TensorRtTarget

HEAD = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "custom" : 1]>'


def reasons(body: str, *, sm: str = "89") -> list[str]:
    model = ir.from_onnx_text(HEAD + body)
    return [str(blocker) for blocker in TensorRtTarget().blockers(model, BuildOptions(settings={"sm": sm}))]


def quantized(*, activation: str = "int8", zero_point: str = "0", scale: str = "0.1", bias: str = "float") -> str:
    """Return a MatMul with bias whose both factors are quantized."""
    biases = {
        "float": "b = Constant<value = float[2] {1.0, 1.0}>()",
        "int32": """bq = Constant<value = int32[2] {1, 1}>() bs = Constant<value = float {0.01}>()
            b = DequantizeLinear(bq, bs)""",
    }
    return f"""g (float[N,2] x) => (float[N,2] y) {{
        s = Constant<value = float {{{scale}}}>()
        z = Constant<value = {activation} {{{zero_point}}}>()
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wq = Constant<value = int8[2,2] {{1, 2, 3, 4}}>()
        ws = Constant<value = float {{0.1}}>()
        wd = DequantizeLinear(wq, ws)
        p = MatMul(xd, wd)
        {biases[bias]}
        y = Add(p, b)
    }}"""


def test_a_symmetric_int8_graph_with_float_bias_has_none() -> None:
    assert reasons(quantized()) == []


@pytest.mark.parametrize(
    ("options", "faulty", "words"),
    [
        ({"zero_point": "3"}, 2, "zero point is not 0"),
        ({"activation": "uint8"}, 2, "computed as int8"),
        ({"activation": "uint8", "zero_point": "128"}, 4, "computed as int8|zero point is not 0"),
        ({"activation": "int16"}, 2, "INT16"),
        ({"bias": "int32"}, 1, "keep the bias in float"),
        ({"scale": "0.0"}, 2, "scale is not positive"),
        ({"scale": "-0.1"}, 2, "scale is not positive"),
    ],
)
def test_quantization_that_it_refuses(options: dict[str, str], faulty: int, words: str) -> None:
    found = reasons(quantized(**options))
    assert len(found) >= faulty
    alternatives = words.split("|")
    assert all(any(word in reason for word in alternatives) for reason in found)
    assert all(any(word in reason for reason in found) for word in alternatives)


def test_a_quantizer_without_zero_point_is_uint8() -> None:
    body = """g (float[N,2] x) => (float[N,2] y) {{
        s = Constant<value = float {{0.1}}>() q = QuantizeLinear{}(x, s) y = DequantizeLinear(q, s) }}"""
    assert len(reasons(body.format(""))) == 2
    assert reasons(body.format("<output_dtype = 3>")) == []


def test_a_computed_zero_point_is_refused() -> None:
    found = reasons("""g (float[N,2] x, int8 z) => (float[N,2] y) {
        s = Constant<value = float {0.1}>() q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""")
    assert [reason for reason in found if "computed" in reason] == found
    assert len(found) == 2


def test_int8_on_turing_is_refused_rather_than_run_in_fp32() -> None:
    found = [text for text in reasons(quantized(), sm="75+89") if "in int8" in text]
    assert [text.split("'")[1] for text in found] == ["xq", "xd", "wd"]
    assert all("TensorRT 11 would compute these products in fp32" in text for text in found)


@pytest.mark.parametrize(
    ("kind", "sm", "refused"),
    [("bfloat16", "75", True), ("bfloat16", "80", False), ("float16", "75", False), ("float", "75", False)],
)
def test_types_are_held_against_the_compute_capability(kind: str, sm: str, refused: bool) -> None:
    assert bool(reasons(f"g ({kind}[N] x) => ({kind}[N] y) {{ y = Relu(x) }}", sm=sm)) == refused


def test_an_fp32_product_on_turing_is_refused() -> None:
    product = "g ({0}[N,4] x, {0}[4,4] w) => ({0}[N,4] y) {{ y = MatMul(x, w) }}"
    assert reasons(product.format("float"), sm="75+89") == [
        "MatMul 'y': SM75 has no matrix product in fp32 in TensorRT for RTX: build it in fp16"
    ]
    assert reasons(product.format("float16"), sm="75+89") == []


def test_all_are_reported_at_once_with_node_and_reason() -> None:
    found = reasons("""g (double[N,4] x, float[N,4] f) => (float[N,4] y) {
        [shift] a = BitShift<direction = "LEFT">(x, x)
        [short] b = Cast<to = 5>(a)
        [unique] c = Unique(b)
        [other] d = custom.Thing(c)
        [hard] e = Hardmax(f)
        y = Cast<to = 1>(d)
    }""")
    text = "\n".join(found)
    assert "Input 'x': TensorRT has no type float64" in text
    assert "BitShift 'shift': TensorRT has no kernel for BitShift" in text
    assert "Cast 'short': TensorRT has no type INT16" in text
    assert "Unique 'unique': TensorRT has no kernel for Unique" in text
    assert "custom::Thing 'other'" in text or "Thing 'other': TensorRT has no kernel for custom::Thing" in text
    assert f"Hardmax 'hard': {NOT_BUILT['Hardmax']}" in text


def test_attention_is_refused_with_the_way_out() -> None:
    found = reasons("""g (float[N,2,S,8] q) => (float[N,2,S,8] y) { y = Attention(q, q, q) }""")
    assert len(found) == 1
    assert "crashes the builder" in found[0]
    assert "expand it" in found[0]


def test_nodes_of_subgraphs_and_functions_are_found() -> None:
    inner = """g (bool c, float[N] x) => (float[N] y) {
        y = If(c) <then_branch = t () => (float[N] a) { [deep] a = custom.Thing(x) },
                   else_branch = e () => (float[N] b) { b = Identity(x) }> }"""
    assert len(reasons(inner)) == 1
    called = """g (float[N] x) => (float[N] y) { y = custom.Twice(x) }
        <domain: "custom", opset_import: ["" : 23]> Twice (x) => (y) { y = Add(x, x) }"""
    assert reasons(called) == []
    assert len(reasons(called.replace("Add(x, x)", "BitwiseAnd(x, x)"))) == 1


def test_the_opset_is_checked() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 26]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    found = TensorRtTarget().blockers(model, BuildOptions(settings={"sm": "89"}))
    assert [str(blocker) for blocker in found] == ["opset '(model)': it is 26, TensorRT takes up to 25"]


def test_the_user_s_line_is_told_where_it_was_recorded() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[N] x) => (float[N] y) { y = custom.Thing(x) }")
    model.graph.node(0).metadata_props["graphwright.source_line"] = "net.py:12"
    (found,) = TensorRtTarget().blockers(model, BuildOptions(settings={"sm": "89"}))
    assert found.source_line == "net.py:12"


def test_an_input_or_output_without_type_or_rank_is_refused() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.inputs[0].shape = None
    model.graph.outputs[0].type = None
    found = TensorRtTarget().blockers(model, BuildOptions(settings={"sm": "89"}))
    assert {(blocker.operator, blocker.node) for blocker in found} == {("Input", "x"), ("Output", "y")}


IMAGE = "float[N,4,H,W]"
REFUSED_NODES = {
    "axes": ("float[N,4] x, int64[1] a", "float[N,1]", "y = ReduceSum(x, a)"),
    "squeeze": ("float[N,1] x, int64[1] a", "float[N]", "y = Squeeze(x, a)"),
    "dilated pool": (f"{IMAGE} x", IMAGE, "y = MaxPool<kernel_shape = [2,2], dilations = [2,2]>(x)"),
    "p3 pool": (f"{IMAGE} x", IMAGE, "y = LpPool<kernel_shape = [2,2], p = 3>(x)"),
    "pool indices": (f"{IMAGE} x", "int64[N,4,P,Q]", "z, y = MaxPool<kernel_shape = [2,2]>(x)"),
    "norm statistics": ("float[N,4] x, float[4] s", "float[N,1]", "z, y = LayerNormalization(x, s)"),
    "scatter": ("float[N,4] x, int64[1,2] i, float[1] u", "float[N,4]", 'y = ScatterND<reduction = "add">(x, i, u)'),
    "antialias": (f"{IMAGE} x, float[4] s", IMAGE, 'y = Resize<mode = "linear", antialias = 1>(x, , s)'),
    "crop resize": (
        f"{IMAGE} x, float[8] r, float[4] s",
        IMAGE,
        'y = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(x, r, s)',
    ),
    "aspect": (
        f"{IMAGE} x, int64[2] s",
        IMAGE,
        'y = Resize<keep_aspect_ratio_policy = "not_larger", axes = [2,3]>(x, , , s)',
    ),
    "float modulus": ("float[N] x, float[N] m", "float[N]", "y = Mod(x, m)"),
    "fft step": ("float[N,9,1] x, int64 s, int64 l", "float[N,F,B,2]", "y = STFT(x, s, , l)"),
    "circular": (
        "float[N,2,8,4] c, float[N,2,1,4] u, int64[N] w",
        "float[N,2,8,4]",
        'y = TensorScatter<mode = "circular">(c, u, w)',
    ),
}


@pytest.mark.parametrize("case", REFUSED_NODES)
def test_forms_of_known_operators_that_it_refuses(case: str) -> None:
    inputs, output, node = REFUSED_NODES[case]
    assert len(reasons(f"g ({inputs}) => ({output} y) {{ {node} }}")) == 1


@pytest.mark.parametrize("case", REFUSED_NODES)
def test_the_parser_refuses_them_too(case: str) -> None:
    inputs, output, node = REFUSED_NODES[case]
    assert not is_parsed(f"g ({inputs}) => ({output} y) {{ {node} }}")


@pytest.mark.parametrize(
    "options", [{}, {"zero_point": "3"}, {"activation": "int16"}, {"bias": "int32"}, {"scale": "0.0"}], ids=str
)
def test_the_parser_agrees_about_quantization(options: dict[str, str]) -> None:
    assert is_parsed(quantized(**options)) == (not reasons(quantized(**options)))


def is_parsed(body: str) -> bool:
    trt = pytest.importorskip("tensorrt_rtx")
    session = open_session(trt)
    model = ir.from_onnx_text(HEAD + body)
    return bool(session.parser.parse(ir.to_proto(model).SerializeToString()))


def test_constant_axes_and_plain_pools_are_taken() -> None:
    assert (
        reasons(f"""g ({IMAGE} x) => (float[N,4] y) {{
        p = MaxPool<kernel_shape = [2,2]>(x)
        a = Constant<value = int64[2] {{2, 3}}>()
        y = ReduceMean<keepdims = 0>(p, a) }}""")
        == []
    )


def test_the_table_is_what_the_parser_says() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    import onnx

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    operators = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    claimed = {name for name in operators if parser.supports_operator(name)}
    assert {name for name in KERNELS if "::" not in name} | set(NOT_BUILT) == claimed
    assert not KERNELS & set(NOT_BUILT)
