"""The default pipeline on a sample of the node cases that ONNX itself tests operators with."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from passes.base import Context
from passes.catalogue import default_pipeline
from passes.observers import CheckStructure
from targets.base import BuildOptions
from targets.registry import get_target

_NAMES = """
    add_bcast and_bcast3v1d argmax_keepdims_example attention_4d attention_3d_gqa attention_4d_attn_mask_bool
    averagepool_2d_pads basic_conv_with_padding batchnorm_epsilon cast_FLOAT_to_DOUBLE clip_default_inbounds
    concat_2d_axis_1 constant_pad convtranspose_group_2 cumsum_1d dequantizelinear_axis div_uint8 dropout_default
    einsum_transpose equal_bcast expand_dim_changed expand_dim_unchanged flatten_axis2 gather_elements_1
    gathernd_example_int32 gather_1 gelu_tanh_1 gemm_all_attributes group_normalization_epsilon hardswish identity
    if layer_normalization_2d_axis1 logsoftmax_axis_1 loop11 lstm_defaults matmul_3d max_example maxpool_2d_pads
    mish mod_mixed_sign_int64 mul_bcast nonzero_example not_3d onehot_with_axis pow_bcast_array prelu_broadcast
    quantizelinear range_float_type_positive_delta reduce_l2_keep_dims_example
    reduce_mean_negative_axes_keepdims_example reshape_allowzero_reordered reshape_negative_extended_dims
    reshape_zero_dim resize_upsample_scales_nearest rms_normalization_3d_axis1_epsilon scatternd shape_clip_end
    shape_start_1_end_2 size slice slice_neg_steps softmax_axis_1 split_equal_parts_2d
    split_variable_parts_1d_opset18 sqrt_example squeeze_negative_axes sub_bcast sum_example sum_one_input tanh tile
    transpose_all_permutations_3 tril_zero triu unsqueeze_unsorted_axes where_example where_long_example
    xor_bcast4v4d dynamicquantizelinear scan9_sum scan_sum rotary_embedding center_crop_pad_crop less_equal_bcast
    min_int64
    reduce_sum_empty_axes_input_noop
"""
SAMPLE = tuple(_NAMES.split())
BODIES = (
    "affine_grid_2d_expanded",
    "affine_grid_3d_expanded",
    "linear_attention_linear_expanded",
    "linear_attention_decode_step",
    "linear_attention_no_past_explicit_zeros",
)


@pytest.fixture(scope="module")
def cases():  # type: ignore[no-untyped-def]
    from onnx.backend.test.case.node import collect_testcases

    return {case.name.removeprefix("test_"): case for case in collect_testcases(None)}


def _arrays(protos: object) -> list[object]:
    return [numpy_helper.to_array(p) if isinstance(p, onnx.TensorProto) else np.asarray(p) for p in protos]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SAMPLE)
def test_the_pipeline_keeps_what_the_operator_computes(name: str, cases) -> None:  # type: ignore[no-untyped-def]
    import onnxruntime

    case = cases[name]
    model = ir.from_proto(case.model)
    after, _ = default_pipeline().run(model, observers=[CheckStructure()])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    data = ir.to_proto(after).SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented):
            onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return
    names = [value.name for value in session.get_inputs()]
    for inputs, outputs in case.data_sets:
        actual = session.run(None, dict(zip(names, _arrays(inputs), strict=True)))
        for old, new in zip(_arrays(outputs), actual, strict=True):
            assert np.asarray(new).dtype == np.asarray(old).dtype
            np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("target", ["", "onnxruntime"])
@pytest.mark.parametrize("name", BODIES)
def test_a_second_run_changes_no_byte_where_bodies_are_written_out(name: str, target: str, cases) -> None:  # type: ignore[no-untyped-def]
    chosen, options = get_target("onnxruntime"), BuildOptions()
    pipeline = default_pipeline() + chosen.pipeline(options) if target else default_pipeline()
    context = Context(chosen.capabilities(options)) if target else Context()
    once, _ = pipeline.run(ir.from_proto(cases[name].model), context=context)
    data = ir.to_proto(once).SerializeToString(deterministic=True)
    twice, _ = pipeline.run(once, context=context)
    assert ir.to_proto(twice).SerializeToString(deterministic=True) == data
    assert b"unk__" not in data


def test_the_sample_is_of_cases_that_exist(cases) -> None:  # type: ignore[no-untyped-def]
    assert not [name for name in SAMPLE if name not in cases]
    assert len(set(SAMPLE)) == len(SAMPLE)
