from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context
from passes.cleanup.upgrade_opset import UpgradeOpset
from passes.matching import opset_of
from passes.serialization import load_model, save_model
from tests.support.golden import graph_text
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

OLD = {
    9: "s = Slice <axes = [1], starts = [0], ends = [2]> (x) y = Relu (s)",
    10: "s = Dropout <ratio = 0.5> (x) t = Clip <min = -1.0, max = 1.0> (s) y = Slice (t, v0, v2, v1)",
    11: "s = Unsqueeze <axes = [0]> (x) t = Squeeze <axes = [0]> (s) u = Pad (t, p) y = Slice (u, v0, v2, v1)",
    12: "s = ReduceSum <axes = [1]> (x) t = Softmax <axis = 1> (x) u = Add (s, t) y = Slice (u, v0, v2, v1)",
    13: "s, t = Split <axis = 1> (x4) y = Add (s, t)",
    16: "s = ReduceMean <axes = [1], keepdims = 1> (x) t = Add (s, x) y = Slice (t, v0, v2, v1)",
    17: "s = LayerNormalization <axis = -1> (x, w) y = Slice (s, v0, v2, v1)",
    20: "s = Gelu (x) y = Slice (s, v0, v2, v1)",
}


@pytest.mark.parametrize("opset", OLD)
def test_old_operators_mean_the_same_in_the_new_set(opset: int) -> None:
    model = graph_from(
        f"""g (float[N,3] x, float[N,4] x4, float[3] w) => (float[N,2] y) {{
            v0 = Constant <value = int64[1] {{0}}> ()
            v1 = Constant <value = int64[1] {{1}}> ()
            v2 = Constant <value = int64[1] {{2}}> ()
            p = Constant <value = int64[4] {{0, 0, 0, 1}}> ()
            {OLD[opset]}
        }}""",
        opset=opset,
    )
    add_weights(model, w=random_array(3))
    after, result = rewrite(model, UpgradeOpset())
    assert opset_of(after) == 23
    assert [event.rule for event in result.applied] == [f"{opset}-to-23"]


def test_group_normalization_gets_a_scale_for_each_channel() -> None:
    model = graph_from(
        """g (float[2,4,3] x, float[2] s, float[2] b) => (float[2,4,3] y) {
            y = GroupNormalization <num_groups = 2> (x, s, b)
        }""",
        opset=18,
    )
    add_weights(model, s=random_array(2), b=random_array(2, seed=1))
    after, _ = rewrite(model, UpgradeOpset())
    assert operators(after)[-1] == "GroupNormalization"
    assert len(after.graph) > 1


def test_large_weights_names_and_metadata_survive_the_converter() -> None:
    model = graph_from(
        "g (float[N,200] x, float[200,200] w) => (float[N,200] y) { a = MatMul (x, w) y = Clip <min = 0.0> (a) }",
        opset=9,
    )
    array = random_array(200, 200)
    add_weights(model, w=array)
    model.graph.node(0).metadata_props["source"] = "model.py:7"
    model.graph.node(0).name = "product"
    after, _ = rewrite(model, UpgradeOpset())
    node = next(node for node in after.graph if node.op_type == "MatMul")
    assert (node.name, node.metadata_props["source"], node.outputs[0].name) == ("product", "model.py:7", "a")
    assert after.graph.initializers["w"].const_value.numpy() is array
    assert [value.name for value in after.graph.inputs] == ["x"]


def test_small_weights_in_a_file_are_read_from_the_folder_of_the_model(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    text = "g (float[N,20] x, float[20,20] w) => (float[N,20] y) { a = MatMul (x, w) y = Relu (a) }"
    save_model(add_weights(graph_from(text, opset=13), w=random_array(20, 20)), tmp_path / "m.onnx")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "m.onnx.data").write_bytes(bytes(1600))  # must not be taken for the weights
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_model(tmp_path / "m.onnx")
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    after, result = rewrite(loaded, UpgradeOpset(), is_exact=True)
    assert [event.rule for event in result.applied] == ["13-to-23"]
    save_model(after, tmp_path / "after.onnx")
    saved = load_model(tmp_path / "after.onnx").graph.initializers["w"].const_value
    assert saved is not None
    np.testing.assert_array_equal(saved.numpy(), random_array(20, 20))


def test_weights_of_a_branch_in_a_file_are_read_from_the_folder_of_the_model(tmp_path: Path) -> None:
    model = graph_from(
        """g (bool c, float[20] x) => (float[20] y) {
            y = If (c) <then_branch = t () => (float[20] ty) <float[20,20] w> { ty = MatMul (x, w) },
                        else_branch = e () => (float[20] ey) { ey = Neg (x) }>
        }""",
        opset=13,
    )
    (branch,) = (graph for graph in model.graphs() if graph.name == "t")
    value = next(value for node in branch for value in node.inputs if value is not None and value.name == "w")
    if value in branch.inputs:
        branch.inputs.remove(value)
    value.const_value = ir.Tensor(random_array(20, 20), name="w")
    branch.register_initializer(value)
    save_model(model, tmp_path / "m.onnx")
    _, result = rewrite(load_model(tmp_path / "m.onnx"), UpgradeOpset(), is_exact=True)
    assert [event.rule for event in result.applied] == ["13-to-23"]


def test_a_model_with_functions_is_refused() -> None:
    model = graph_from(
        """g (float[2] x) => (float[2] y) { y = my.f (x) }
        <domain: "my", opset_import: ["" : 17]> f (a) => (b) { b = Neg (a) }""",
        opset=17,
        domains=', "my" : 1',
    )
    after, result = rewrite(model, UpgradeOpset(), is_exact=True)
    assert opset_of(after) == 17
    assert reasons(result) == ["the model has functions; run inline-functions first"]


def test_what_the_converter_cannot_take_is_refused_and_kept() -> None:
    model = graph_from('g (float[2,3] x) => (float[2,3] y) { y = Upsample <mode = "nearest"> (x, s) }', opset=9)
    value = next(value for node in model.graph for value in node.inputs if value is not None and value.name == "s")
    model.graph.inputs.append(value)
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
    feeds = ({"x": random_array(2, 3), "s": np.ones(2, np.float32)},)
    after, result = rewrite(model, UpgradeOpset(), feeds=feeds)
    if result.refused:
        assert opset_of(after) == 9
        assert "onnx's converter failed from opset 9" in reasons(result)[0]
    else:
        assert opset_of(after) == 23


def test_a_newer_model_is_left_alone_and_the_target_is_checked() -> None:
    _, result = rewrite(graph_from("g (float[2] x) => (float[2] y) { y = Relu (x) }"), UpgradeOpset(target=21))
    assert not result.applied
    with pytest.raises(ValueError, match="target is an opset"):
        UpgradeOpset(target=7)


def test_nodes_that_the_converter_adds_take_no_name_twice() -> None:
    """Softmax before opset 13 becomes Flatten, Softmax and Reshape."""
    model = graph_from("g (float[2,3,4] x) => (float[2,3,4] y) { [n0] y = Softmax <axis = 1> (x) }", opset=9)
    after, _ = rewrite(model, UpgradeOpset())
    names = [node.name for node in after.graph if node.name]
    assert len(names) == len(set(names))
    assert next(node for node in after.graph if "y" in [value.name for value in node.outputs]).name == "n0"


SAME = {
    "linear resize": (
        10,
        "1,1,3,3",
        'k = Constant <value = float[4] {1.0, 1.0, 2.0, 1.5}> () y = Resize <mode = "linear"> (x, k)',
    ),
    "nearest resize": (10, "1,1,4,4", "k = Constant <value = float[4] {1.0, 1.0, 1.5, 2.0}> () y = Resize (x, k)"),
    "smaller resize": (10, "1,1,6,6", "k = Constant <value = float[4] {1.0, 1.0, 0.5, 0.5}> () y = Resize (x, k)"),
    "upsample": (
        9,
        "1,1,3,3",
        'k = Constant <value = float[4] {1.0, 1.0, 2.0, 3.0}> () y = Upsample <mode = "linear"> (x, k)',
    ),
    "hardmax": (11, "2,3,4", "y = Hardmax <axis = 2> (x)"),
    "hardmax by default": (11, "3,4", "y = Hardmax (x)"),
    "softmax flattens": (11, "2,3,4", "y = Softmax (x)"),
    "log softmax flattens": (11, "2,3,4", "y = LogSoftmax <axis = 0> (x)"),
    "group norm of a Constant": (
        18,
        "2,4,3",
        "s = Constant <value = float[2] {1.0, 2.0}> () y = GroupNormalization <num_groups = 2> (x, s, s)",
    ),
    "grid": (16, "1,1,4,4", "g = Constant <value = float[1,1,1,2] {0.3, 0.4}> () y = GridSample (x, g)"),
    "fourier": (17, "1,8,1", "y = DFT (x)"),
}


@pytest.mark.parametrize(("opset", "dims", "body"), SAME.values(), ids=SAME)
def test_what_changed_by_default_is_written_out(opset: int, dims: str, body: str) -> None:
    model = graph_from(f"g (float[{dims}] x) => (float y) {{ {body} }}", opset=opset)
    model.graph.outputs[0].shape = None
    _, result = rewrite(model, UpgradeOpset())
    assert [event.rule for event in result.applied] == [f"{opset}-to-23"]


KEPT = {
    "hardmax": (11, "float[2,3,4] x", "y = Hardmax (x)", "flattens the axes"),
    "mask": (10, "float[2,3] x", "o, y = Dropout (x)", "the mask of Dropout"),
    "half bounds": (10, "float16[2,3] x", "y = Clip <min = 0.0> (x)", "float bounds"),
    "scales": (10, "float[1,1,4,4] x, float[4] k", "y = Resize (x, k)", "not constant"),
    "nearest": (
        10,
        "float[1,1,5,5] x",
        "k = Constant <value = float[4] {1.0, 1.0, 0.7, 1.0}> () y = Resize (x, k)",
        "not defined before opset 11",
    ),
    "groups": (18, "float[2,C,3] x, float[D] s", "y = GroupNormalization <num_groups = 2> (x, s, s)", "not known"),
    "regions": (
        16,
        "float[1,1,8,8] x, float[1,4] r, int64[1] i",
        "y = RoiAlign <output_height = 2, output_width = 2> (x, r, i)",
        "no kernel for RoiAlign",
    ),
    "random": (18, "float[2,3] x", "y = RandomNormalLike (x)", "no kernel for RandomNormalLike of opset 22"),
    "random shape": (18, "float[2,3] x", "y = RandomUniform <shape = [2, 3]> ()", "no kernel for RandomUniform"),
    "drawn": (13, "float[2,3] x", "y = Multinomial (x)", "no kernel for Multinomial"),
    "global norm": (18, "float[1,1,4,4] x", "y = GlobalLpPool (x)", "no kernel for GlobalLpPool"),
    "boxes": (
        18,
        "float[1,1,4,4] x, float[1,5] r",
        "y = MaxRoiPool <pooled_shape = [2, 2]> (x, r)",
        "no kernel for MaxRoiPool",
    ),
}


@pytest.mark.parametrize(("opset", "inputs", "body", "reason"), KEPT.values(), ids=KEPT)
def test_what_would_mean_something_else_is_refused_and_kept(opset: int, inputs: str, body: str, reason: str) -> None:
    model = graph_from(f"g ({inputs}) => (float y) {{ {body} }}", opset=opset)
    before = graph_text(model)
    result = UpgradeOpset().run(model, Context())
    assert result.applied == ()
    assert reason in reasons(result)[0]
    assert (graph_text(model), opset_of(model)) == (before, opset)
