from __future__ import annotations

import numpy as np
import pytest

from passes.fusion.fuse_conv_batch_norm import FuseConvBatchNorm
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite


def _statistics(channels: int) -> dict[str, np.ndarray]:
    return {
        "s": random_array(channels, seed=1),
        "o": random_array(channels, seed=2),
        "m": random_array(channels, seed=3),
        "v": np.abs(random_array(channels, seed=4)) + 0.5,
    }


def _model(body: str, weight: tuple[int, ...], channels: int, *, outputs: str = "float[N,?,?,?] y", bias: bool = True):  # type: ignore[no-untyped-def]
    extra = f", float[{weight[0]}] b" if bias else ""
    shape = ",".join(map(str, weight))
    text = f"""g (float[N,4,8,8] x, float[{shape}] w, float[{channels}] s, float[{channels}] o, float[{channels}] m,
        float[{channels}] v{extra}) => ({outputs}) {{ {body} }}"""
    arrays = {"w": random_array(*weight, seed=9), **_statistics(channels)}
    if bias:
        arrays["b"] = random_array(weight[0], seed=8)
    return add_weights(graph_from(text), **arrays)


AFTER = {
    "Conv": ("c = Conv <pads = [1, 1, 1, 1]> (x, w) y = BatchNormalization (c, s, o, m, v)", (6, 4, 3, 3), 6, False),
    "Conv with a bias": (
        "c = Conv <strides = [2, 2]> (x, w, b) y = BatchNormalization (c, s, o, m, v)",
        (6, 4, 3, 3),
        6,
        True,
    ),
    "Conv in groups": ("c = Conv <group = 2> (x, w, b) y = BatchNormalization (c, s, o, m, v)", (6, 2, 3, 3), 6, True),
    "ConvTranspose": ("c = ConvTranspose (x, w) y = BatchNormalization (c, s, o, m, v)", (4, 6, 3, 3), 6, False),
    "ConvTranspose in groups": (
        "c = ConvTranspose <group = 2> (x, w) y = BatchNormalization (c, s, o, m, v)",
        (4, 3, 3, 3),
        6,
        False,
    ),
}


@pytest.mark.parametrize("case", AFTER)
def test_a_norm_after_a_convolution_is_folded(case: str) -> None:
    body, weight, channels, bias = AFTER[case]
    after, result = rewrite(_model(body, weight, channels, bias=bias), FuseConvBatchNorm())
    assert operators(after) == [case.split()[0]]
    assert [event.rule for event in result.applied] == ["after"]


@pytest.mark.parametrize(("group", "bias"), [(1, True), (2, False)])
def test_a_norm_before_a_convolution_without_padding_is_folded(group: int, bias: bool) -> None:
    body = f"n = BatchNormalization (x, s, o, m, v) y = Conv <group = {group}> (n, w{', b' if bias else ''})"
    after, result = rewrite(_model(body, (6, 4 // group, 3, 3), 4, bias=bias), FuseConvBatchNorm())
    assert operators(after) == ["Conv"]
    assert [event.rule for event in result.applied] == ["before"]


def test_a_norm_before_a_convolution_that_pads_is_refused() -> None:
    body = "n = BatchNormalization (x, s, o, m, v) y = Conv <pads = [1, 1, 1, 1]> (n, w, b)"
    after, result = rewrite(_model(body, (6, 4, 3, 3), 4), FuseConvBatchNorm())
    assert operators(after) == ["BatchNormalization", "Conv"]
    assert reasons(result) == ["the Conv after it pads with zeros"]


def test_a_second_reader_is_refused() -> None:
    body = "c = Conv (x, w, b) y = BatchNormalization (c, s, o, m, v) z = Relu (c)"
    model = _model(body, (6, 4, 3, 3), 6, outputs="float[N,?,?,?] y, float[N,?,?,?] z")
    after, result = rewrite(model, FuseConvBatchNorm())
    assert operators(after) == ["Conv", "BatchNormalization", "Relu"]
    assert reasons(result) == ["output 'c' also feeds z"]


def test_training_mode_is_refused() -> None:
    body = "c = Conv (x, w, b) y, rm, rv = BatchNormalization <training_mode = 1> (c, s, o, m, v)"
    _, result = rewrite(_model(body, (6, 4, 3, 3), 6), FuseConvBatchNorm())
    assert reasons(result) == ["the norm is in training mode"]


def test_a_weight_that_varies_is_refused() -> None:
    text = """g (float[N,4,8,8] x, float[6,4,3,3] w, float[6] s, float[6] o, float[6] m, float[6] v)
        => (float[N,6,6,6] y) { c = Conv (x, w) y = BatchNormalization (c, s, o, m, v) }"""
    _, result = rewrite(add_weights(graph_from(text), **_statistics(6)), FuseConvBatchNorm())
    assert reasons(result) == ["the weight or bias of the convolution is not constant"]
    varying = graph_from(text)
    add_weights(varying, w=random_array(6, 4, 3, 3), **{k: v for k, v in _statistics(6).items() if k != "s"})
    _, result = rewrite(varying, FuseConvBatchNorm())
    assert reasons(result) == ["a statistic of the norm is not constant"]


def _matrices(body: str, *, weight: tuple[int, int] = (4, 6), channels: int = 6, bias: tuple[int, ...] | None = None):  # type: ignore[no-untyped-def]
    extra = "" if bias is None else f", float[{','.join(map(str, bias))}] b"
    text = f"""g (float[N,4] x, float[{weight[0]},{weight[1]}] w, float[{channels}] s, float[{channels}] o,
        float[{channels}] m, float[{channels}] v{extra}) => (float[N,6] y) {{ {body} }}"""
    arrays = {"w": random_array(*weight, seed=9), **_statistics(channels)}
    if bias is not None:
        arrays["b"] = random_array(*bias, seed=8)
    return add_weights(graph_from(text), **arrays)


MATRICES = {
    "Gemm, norm": ("c = Gemm (x, w, b) y = BatchNormalization (c, s, o, m, v)", {"bias": (6,)}),
    "Gemm with one bias, norm": ("c = Gemm (x, w, b) y = BatchNormalization (c, s, o, m, v)", {"bias": (1,)}),
    "Gemm of a transposed weight, norm": (
        "c = Gemm <transB = 1> (x, w, b) y = BatchNormalization (c, s, o, m, v)",
        {"bias": (6,), "weight": (6, 4)},
    ),
    "MatMul, norm": ("c = MatMul (x, w) y = BatchNormalization (c, s, o, m, v)", {}),
    "norm, Gemm": ("c = BatchNormalization (x, s, o, m, v) y = Gemm (c, w, b)", {"bias": (6,), "channels": 4}),
    "norm, Gemm of a transposed weight": (
        "c = BatchNormalization (x, s, o, m, v) y = Gemm <transB = 1> (c, w)",
        {"weight": (6, 4), "channels": 4},
    ),
    "norm, MatMul": ("c = BatchNormalization (x, s, o, m, v) y = MatMul (c, w)", {"channels": 4}),
}


@pytest.mark.parametrize("case", MATRICES)
def test_a_norm_next_to_a_matrix_product_is_folded(case: str) -> None:
    body, options = MATRICES[case]
    after, result = rewrite(_matrices(body, **options), FuseConvBatchNorm())
    assert operators(after) == ["Gemm"]
    assert len(result.applied) == 1


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (
            "c = Gemm <alpha = 2.0> (x, w) y = BatchNormalization (c, s, o, m, v)",
            {},
            "the Gemm transposes its input or scales",
        ),
        (
            "c = Gemm (x, w, b) y = BatchNormalization (c, s, o, m, v)",
            {"bias": (1, 6)},
            "the bias of the Gemm is not one row",
        ),
        (
            "c = BatchNormalization (x, s, o, m, v) y = MatMul (w, c)",
            {"weight": (3, 2), "channels": 4},
            "'c' is not the first operand of the MatMul",
        ),
    ],
)
def test_a_matrix_product_that_cannot_take_the_norm_is_refused(body: str, options: dict, reason: str) -> None:  # type: ignore[type-arg]
    model = _matrices(body, **options)
    if "(w, c)" in body:
        model.graph.inputs[0].shape = type(model.graph.inputs[0].shape)([2, 4])
        model.graph.outputs[0].shape = type(model.graph.outputs[0].shape)([3, 4])
    after, result = rewrite(model, FuseConvBatchNorm())
    assert "BatchNormalization" in operators(after)
    assert reasons(result) == [reason]


def test_a_norm_after_an_activation_goes_into_the_next_convolution() -> None:
    body = """a = Conv (x, k, b) r = Relu (a) n = BatchNormalization (r, s, o, m, v) y = Conv (n, w)"""
    text = f"""g (float[N,4,8,8] x, float[5,4,3,3] k, float[5] b, float[6,5,3,3] w, float[5] s, float[5] o, float[5] m,
        float[5] v) => (float[N,6,4,4] y) {{ {body} }}"""
    arrays = {"k": random_array(5, 4, 3, 3), "b": random_array(5, seed=7), "w": random_array(6, 5, 3, 3, seed=9)}
    after, _ = rewrite(add_weights(graph_from(text), **arrays, **_statistics(5)), FuseConvBatchNorm())
    assert operators(after) == ["Conv", "Relu", "Conv"]


def test_a_norm_goes_into_all_convolutions_that_read_it() -> None:
    body = "n = BatchNormalization (x, s, o, m, v) y = Conv (n, w, b) z = Conv <strides = [2, 2]> (n, w)"
    model = _model(body, (6, 4, 3, 3), 4, outputs="float[N,?,?,?] y, float[N,?,?,?] z")
    after, result = rewrite(model, FuseConvBatchNorm())
    assert operators(after) == ["Conv", "Conv"]
    assert len(result.applied) == 1


def test_a_norm_that_only_scales_goes_into_a_convolution_that_pads() -> None:
    body = "n = BatchNormalization (x, s, o, m, v) y = Conv <pads = [1, 1, 1, 1]> (n, w, b)"
    model = _model(body, (6, 4, 3, 3), 4)
    for name in ("o", "m"):
        add = np.zeros(4, dtype=np.float32)
        model.graph.initializers[name].const_value = type(model.graph.initializers[name].const_value)(add, name=name)
    after, _ = rewrite(model, FuseConvBatchNorm())
    assert operators(after) == ["Conv"]


def test_a_shared_weight_is_copied() -> None:
    body = "c = Conv (x, w, b) y = BatchNormalization (c, s, o, m, v) z = Conv (x, w, b)"
    model = _model(body, (6, 4, 3, 3), 6, outputs="float[N,?,?,?] y, float[N,?,?,?] z")
    after, _ = rewrite(model, FuseConvBatchNorm())
    assert operators(after) == ["Conv", "Conv"]
    assert {"w", "w_folded"} <= set(after.graph.initializers)


def test_a_graph_output_between_is_refused() -> None:
    body = "n = BatchNormalization (x, s, o, m, v) y = Conv (n, w, b)"
    _, result = rewrite(
        _model(body, (6, 4, 3, 3), 4, outputs="float[N,?,?,?] y, float[N,4,8,8] n"), FuseConvBatchNorm()
    )
    assert reasons(result) == ["'n' is an output of the graph"]


def _with(model, **arrays):  # type: ignore[no-untyped-def]
    import onnx_ir as ir

    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.Tensor(array.astype(np.float32), name=name)
    return model


@pytest.mark.parametrize(
    ("body", "weight", "channels"),
    [
        ("c = Conv (x, w) y = BatchNormalization (c, s, o, m, v)", (6, 4, 3, 3), 6),
        ("c = ConvTranspose (x, w) y = BatchNormalization (c, s, o, m, v)", (4, 6, 3, 3), 6),
        ("n = BatchNormalization (x, s, o, m, v) y = Conv (n, w)", (6, 4, 3, 3), 4),
    ],
)
def test_a_weight_that_would_lose_its_digits_or_overflow_is_refused(
    body: str, weight: tuple[int, ...], channels: int
) -> None:
    zero, one = np.zeros(channels), np.ones(channels)
    for scale, reason in ((1e-38, "underflows"), (1e38, "not finite")):
        model = _with(
            _model(body, weight, channels, bias=False), s=one * scale, o=zero, m=zero, v=one * 1e-4, w=_ones(weight)
        )
        if reason == "underflows":
            model = _with(model, v=one * 1e4)
        _, result = rewrite(model, FuseConvBatchNorm(), feeds=({"x": np.zeros((1, 4, 8, 8), np.float32)},))
        assert not result.applied
        assert reasons(result) == [f"the folded weight {reason if reason == 'underflows' else 'is not finite'}"]


def _ones(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 10.0)


@pytest.mark.parametrize("scale", [0.0, 1e-41])
def test_a_dead_channel_stops_nothing_where_its_bias_remains(scale: float) -> None:
    body = "c = Conv (x, w) y = BatchNormalization (c, s, o, m, v)"
    scales = np.array([1, 1, scale, 1, 1, 1])
    model = _with(_model(body, (6, 4, 3, 3), 6, bias=False), s=scales, o=np.full(6, 0.25))
    after, _ = rewrite(model, FuseConvBatchNorm())
    assert operators(after) == ["Conv"]


def test_small_numbers_beside_larger_ones_stop_nothing() -> None:
    body = "c = Conv (x, w) y = BatchNormalization (c, s, o, m, v)"
    weight = random_array(6, 4, 3, 3)
    weight[:, 0, 0, 0] = 2e-38
    model = _with(_model(body, (6, 4, 3, 3), 6, bias=False), w=weight, s=np.full(6, 0.1), o=np.zeros(6), m=np.zeros(6))
    after, _ = rewrite(model, FuseConvBatchNorm())
    assert operators(after) == ["Conv"]
