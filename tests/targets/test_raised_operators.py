"""The standard operators that fusion raises to, in every form, through each target's pipeline.

All forms are one graph, so that a target builds once: an output is named after its form. Where the target runs here,
each output is compared with onnx's reference evaluator; TensorRT's parser reads the graph for real.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.evaluation.tolerance import TOLERANCES
from passes.base import Context
from passes.serialization import save_model
from targets.base import BuildOptions, DimRange
from targets.registry import BUILT_IN, get_target

SIZES = {"b": 2, "s": 5, "t": 7, "p": 16, "u": 4, "n": 9}
OPTIONS = BuildOptions(dims={name: DimRange(1, size, size) for name, size in SIZES.items()})

Q, K, V = "float[b, s, 32] q", "float[b, t, 32] k", "float[b, t, 32] v"
THREE = f"{Q}, {K}, {V}"
HEADS = "float[b, 4, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v"
CACHE = (
    "float[b, 4, s, 8] q, float[b, 2, u, 8] k, float[b, 2, u, 8] v, float[b, 2, s, 8] past_k, float[b, 2, s, 8] past_v"
)
MASK, ROW = "float[b, 1, s, t] m", "float[b, 1, 1, t] m"
CACHE_OUT = "float[b, 4, s, 8] y, float[b, 2, n, 8] pk, float[b, 2, n, 8] pv"
OUT, HEADS_OUT, ROTARY = "float[b, s, 32] y", "float[b, 4, s, 8] y", "float[b, 4, s, 8] x"
ALL = "q_num_heads = 4, kv_num_heads = 4"
X, Y, CHANNELS = "float[b, 3, 8] x", "float[b, 3, 8] y", "float[b, 4, s] x, float[4] w, float[4] o"
EIGHT, CHANNELS_OUT = "float[8] w, float[8] o", "float[b, 4, s] y"
RECURRENT = "float[s, b, 3] x, float[2, 20, 3] w, float[2, 20, 5] r, float[2, 40] o"

# form -> (inputs, output, node)
FORMS: dict[str, tuple[str, str, str]] = {
    "attention": (THREE, OUT, f"y = Attention <{ALL}> (q, k, v)"),
    "attention_scale": (THREE, OUT, f"y = Attention <{ALL}, scale = 0.3> (q, k, v)"),
    "attention_softcap": (THREE, OUT, f"y = Attention <{ALL}, softcap = 2.0> (q, k, v)"),
    "attention_causal": (THREE, OUT, f"y = Attention <{ALL}, is_causal = 1> (q, k, v)"),
    "attention_causal_mask": (f"{THREE}, {MASK}", OUT, f"y = Attention <{ALL}, is_causal = 1> (q, k, v, m)"),
    "attention_mask": (f"{THREE}, {MASK}", OUT, f"y = Attention <{ALL}> (q, k, v, m)"),
    "attention_mask_of_one_row": (f"{THREE}, {ROW}", OUT, f"y = Attention <{ALL}> (q, k, v, m)"),
    "attention_mask_of_two_axes": (f"{THREE}, float[s, t] m", OUT, f"y = Attention <{ALL}> (q, k, v, m)"),
    "attention_bool_mask": (f"{THREE}, bool[b, 1, s, t] m", OUT, f"y = Attention <{ALL}> (q, k, v, m)"),
    "attention_grouped": (
        "float[b, s, 32] q, float[b, t, 16] k, float[b, t, 16] v",
        OUT,
        "y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v)",
    ),
    "attention_heads": (HEADS, HEADS_OUT, "y = Attention (q, k, v)"),
    "attention_heads_mask": (f"{HEADS}, {MASK}", HEADS_OUT, "y = Attention (q, k, v, m)"),
    "attention_heads_bool_mask": (f"{HEADS}, bool[b, 1, s, t] m", HEADS_OUT, "y = Attention (q, k, v, m)"),
    "attention_cache": (CACHE, CACHE_OUT, 'y, pk, pv = Attention (q, k, v, "", past_k, past_v)'),
    "attention_cache_mask": (
        f"{CACHE}, float[b, 1, s, n] m",
        CACHE_OUT,
        "y, pk, pv = Attention (q, k, v, m, past_k, past_v)",
    ),
    "rotary": (f"{ROTARY}, float[b, s, 4] c, float[b, s, 4] d", HEADS_OUT, "y = RotaryEmbedding (x, c, d)"),
    "rotary_cache_for_all": (
        f"{ROTARY}, float[1, s, 4] c, float[1, s, 4] d",
        HEADS_OUT,
        "y = RotaryEmbedding (x, c, d)",
    ),
    "rotary_positions": (
        f"{ROTARY}, float[p, 4] c, float[p, 4] d, int64[b, s] i",
        HEADS_OUT,
        "y = RotaryEmbedding (x, c, d, i)",
    ),
    "rotary_flat": (
        "float[b, s, 32] x, float[b, s, 4] c, float[b, s, 4] d",
        OUT,
        "y = RotaryEmbedding <num_heads = 4> (x, c, d)",
    ),
    "rotary_interleaved": (
        f"{ROTARY}, float[b, s, 4] c, float[b, s, 4] d",
        HEADS_OUT,
        "y = RotaryEmbedding <interleaved = 1> (x, c, d)",
    ),
    "rotary_in_part": (
        f"{ROTARY}, float[b, s, 2] c, float[b, s, 2] d",
        HEADS_OUT,
        "y = RotaryEmbedding <rotary_embedding_dim = 4> (x, c, d)",
    ),
    "rms": (f"{X}, float[8] w", Y, "y = RMSNormalization <epsilon = 0.001> (x, w)"),
    "rms_over_two_axes": (f"{X}, float[3, 8] w", Y, "y = RMSNormalization <axis = 1> (x, w)"),
    "layer": (f"{X}, {EIGHT}", Y, "y = LayerNormalization (x, w, o)"),
    "layer_without_bias": (f"{X}, float[8] w", Y, "y = LayerNormalization (x, w)"),
    "layer_over_two_axes": (
        f"{X}, float[3, 8] w, float[3, 8] o",
        Y,
        "y = LayerNormalization <axis = 1, epsilon = 0.001> (x, w, o)",
    ),
    "layer_over_all_but_one_axis": (
        "float[b, 4, 5, 6] x, float[4, 5, 6] w",
        "float[b, 4, 5, 6] y",
        "y = LayerNormalization <axis = -3> (x, w)",
    ),
    "layer_of_a_matrix": ("float[b, 8] x, float[8] w, float[8] o", "float[b, 8] y", "y = LayerNormalization (x, w, o)"),
    "group": (CHANNELS, CHANNELS_OUT, "y = GroupNormalization <num_groups = 2> (x, w, o)"),
    "group_of_all": (CHANNELS, CHANNELS_OUT, "y = GroupNormalization <num_groups = 1> (x, w, o)"),
    "group_of_one": (CHANNELS, CHANNELS_OUT, "y = GroupNormalization <num_groups = 4> (x, w, o)"),
    "group_of_pictures": (
        "float[b, 4, s, t] x, float[4] w, float[4] o",
        "float[b, 4, s, t] y",
        "y = GroupNormalization <epsilon = 0.001, num_groups = 2> (x, w, o)",
    ),
    "instance": (CHANNELS, CHANNELS_OUT, "y = InstanceNormalization (x, w, o)"),
    "gelu": (X, Y, "y = Gelu (x)"),
    "gelu_tanh": (X, Y, 'y = Gelu <approximate = "tanh"> (x)'),
    "hard_swish": (X, Y, "y = HardSwish (x)"),
    "hard_sigmoid": (X, Y, "y = HardSigmoid <alpha = 0.25> (x)"),
    "mish": (X, Y, "y = Mish (x)"),
    "softplus": (X, Y, "y = Softplus (x)"),
    "celu": (X, Y, "y = Celu <alpha = 0.5> (x)"),
    "celu_of_one": (X, Y, "y = Celu (x)"),
    "elu": (X, Y, "y = Elu <alpha = 0.5> (x)"),
    "leaky_relu": (X, Y, "y = LeakyRelu <alpha = 0.2> (x)"),
    "prelu": (f"{X}, float[3, 1] w", Y, "y = PRelu (x, w)"),
    "softsign": (X, Y, "y = Softsign (x)"),
    "sigmoid": (X, Y, "y = Sigmoid (x)"),
    "relu": (X, Y, "y = Relu (x)"),
    "softmax": (X, Y, "y = Softmax (x)"),
    "softmax_over_the_middle": (X, Y, "y = Softmax <axis = 1> (x)"),
    "log_softmax": (X, Y, "y = LogSoftmax (x)"),
    "sum": (f"{X}, float[8] w, float[1, 3, 8] o", Y, "y = Sum (x, w, o)"),
    "lstm": (RECURRENT, "float[s, 2, b, 5] y", 'y = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w, r, o)'),
    "swish": (X, Y, "y = Swish (x)"),
    "swish_alpha": (X, Y, "y = Swish <alpha = 1.702> (x)"),
}
SINCE_24 = frozenset({"swish", "swish_alpha"})
OPSETS = {23: [form for form in FORMS if form not in SINCE_24], 24: list(FORMS)}
NAMES = [name for name, _ in BUILT_IN]

# form -> what its node says, and what it is made to say for the check that faults are seen
FAULTS = {
    "attention_scale": ("scale = 0.3", "scale = 0.4"),
    "attention_causal": ("is_causal = 1", "is_causal = 0"),
    "attention_grouped": ("(q, k, v)", "(q, v, k)"),
    "rotary_interleaved": ("interleaved = 1", "interleaved = 0"),
    "rms": ("epsilon = 0.001", "epsilon = 0.1"),
    "layer_over_two_axes": ("epsilon = 0.001", "epsilon = 0.1"),
    "gelu_tanh": ('Gelu <approximate = "tanh">', "Relu"),
    "hard_sigmoid": ("alpha = 0.25", "alpha = 0.3"),
}


@cache
def graph_of(opset: int) -> ir.Model:
    """Return all forms of an opset in one graph; the values of a form begin with its name."""
    return graph_from(opset, {form: FORMS[form] for form in OPSETS[opset]})


def graph_from(opset: int, forms: dict[str, tuple[str, str, str]]) -> ir.Model:
    graphs = []
    for form, (inputs, output, node) in forms.items():
        header = f'<ir_version: 10, opset_import: ["" : {opset}]>'
        parsed = onnx.parser.parse_model(f"{header}\ng ({inputs}) => ({output}) {{ {node} }}")
        graphs.append(onnx.compose.add_prefix(parsed, f"{form}/", rename_nodes=False).graph)
    joined = onnx.helper.make_graph(
        [node for graph in graphs for node in graph.node],
        "forms",
        [value for graph in graphs for value in graph.input],
        [value for graph in graphs for value in graph.output],
    )
    for value in [*joined.input, *joined.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.rpartition("/")[2]
    model = onnx.helper.make_model(joined, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return ir.from_proto(model)


@cache
def feeds_of(opset: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def array(value: ir.Value) -> np.ndarray:
        assert value.shape is not None
        shape = [dim if isinstance(dim, int) else SIZES[str(dim.value)] for dim in value.shape]
        if value.dtype == ir.DataType.INT64:
            return random.integers(0, SIZES["p"], shape)
        if value.dtype == ir.DataType.BOOL:
            mask = random.random(shape) < 0.6
            mask[..., 0] = True
            mask[-1, ..., -1, :] = False  # a query that sees no key yields zeros
            return mask
        return random.standard_normal(shape).astype(np.float32)

    return {str(value.name): array(value) for value in graph_of(opset).graph.inputs}


@cache
def expected_of(opset: int) -> dict[str, np.ndarray]:
    outputs = ReferenceEvaluator(ir.to_proto(graph_of(opset))).run(None, feeds_of(opset))
    return dict(zip([str(value.name) for value in graph_of(opset).graph.outputs], outputs, strict=True))


@cache
def legal_of(name: str, opset: int) -> ir.Model:
    return legalised(name, graph_of(opset))


def legalised(name: str, model: ir.Model) -> ir.Model:
    target = get_target(name)
    context = Context(capabilities=target.capabilities(OPTIONS))
    return target.pipeline(OPTIONS).run(model, context=context)[0]


def assert_as_expected(outputs: dict[str, np.ndarray], form: str, opset: int) -> None:
    actual, expected = outputs[f"{form}/y"], expected_of(opset)[f"{form}/y"]
    assert actual.dtype == np.float32
    assert np.isfinite(actual).all()
    allowed = TOLERANCES["fp32"]["max_relative"] * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


@pytest.fixture(scope="module")
def outputs_of(tmp_path_factory):
    """Return a function that gives what a target makes of an opset's graph, None where it cannot run here."""

    @cache
    def outputs(name: str, opset: int) -> dict[str, np.ndarray] | None:
        target, readiness = get_target(name), get_target(name).probe()
        if not (readiness.can_build and readiness.can_run):
            assert readiness.reason  # the contract suite asserts how it refuses to run
            return None
        artifact = target.build(legal_of(name, opset), tmp_path_factory.mktemp(f"{name}-{opset}"), OPTIONS)
        with target.open(artifact) as runner:
            return runner(feeds_of(opset))

    return outputs


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", NAMES)
def test_no_form_is_blocked(name: str, opset: int):
    target = get_target(name)
    if not target.probe().can_build:
        return
    assert target.blockers(legal_of(name, opset), OPTIONS) == ()


@pytest.mark.parametrize(("opset", "form"), [(opset, form) for opset, forms in OPSETS.items() for form in forms])
@pytest.mark.parametrize("name", NAMES)
def test_computes_what_the_standard_says(name: str, form: str, opset: int, outputs_of):
    outputs = outputs_of(name, opset)
    if outputs is not None:
        assert_as_expected(outputs, form, opset)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_is_seen_in_each_form(name: str, tmp_path: Path):
    target, readiness = get_target(name), get_target(name).probe()
    if not (readiness.can_build and readiness.can_run):
        return
    faulty = {}
    for form, (said, planted) in FAULTS.items():
        inputs, output, node = FORMS[form]
        assert said in node
        faulty[form] = (inputs, output, node.replace(said, planted))
    model = graph_from(23, faulty)
    feeds = {str(value.name): feeds_of(23)[str(value.name)] for value in model.graph.inputs}
    with target.open(target.build(legalised(name, model), tmp_path, OPTIONS)) as runner:
        outputs = runner(feeds)
    for form in FAULTS:
        with pytest.raises(AssertionError):
            assert_as_expected(outputs, form, 23)


PARSE = """
import sys
import tensorrt_rtx
logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
builder = tensorrt_rtx.Builder(logger)
network = builder.create_network(0)
parser = tensorrt_rtx.OnnxParser(network, logger)
parsed = parser.parse_from_file(sys.argv[1])
print([(parser.get_error(i).node_operator(), parser.get_error(i).desc()) for i in range(parser.num_errors)])
sys.exit(not parsed)
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("opset", OPSETS)
def test_tensorrt_parses_every_form(opset: int, tmp_path: Path):
    save_model(legal_of("tensorrt", opset), tmp_path / "forms.onnx")
    command = [sys.executable, "-c", PARSE, str(tmp_path / "forms.onnx")]
    parsed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert parsed.returncode == 0, parsed.stdout + parsed.stderr[-500:]
