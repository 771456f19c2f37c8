"""One transformer layer as an exporter writes it, through the default pipeline; and what the pipeline costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

from passes.catalogue import default_pipeline
from passes.serialization import save_model
from tests.support.rewriting import add_weights, counts, graph_from, random_array, rewrite

NORM = """{o}_m = ReduceMean ({x}, last) {o}_d = Sub ({x}, {o}_m) {o}_q = Pow ({o}_d, two)
    {o}_v = ReduceMean ({o}_q, last) {o}_e = Add ({o}_v, eps) {o}_r = Sqrt ({o}_e) {o}_n = Div ({o}_d, {o}_r)
    {o}_s = Mul ({o}_n, g) {o} = Add ({o}_s, b8)"""
SPLIT = """{o}_p = MatMul (x, w{o}) {o}_b = Add ({o}_p, b8) {o}_sh = Shape (x) {o}_n0 = Gather ({o}_sh, i0)
    {o}_n1 = Gather ({o}_sh, i1) {o}_u0 = Unsqueeze ({o}_n0, v0) {o}_u1 = Unsqueeze ({o}_n1, v0)
    {o}_to = Concat <axis = 0> ({o}_u0, {o}_u1, heads, rest) {o}_4 = Reshape ({o}_b, {o}_to)
    {o} = Transpose <perm = [0, 2, 1, 3]> ({o}_4)"""

LAYER = f"""g (float[B,S,8] x, int64[B,S] attention_mask, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,8] wo,
    float[8,16] w1, float[16,8] w2, float[8] b8, float[16] b16, float[8] g) => (float[B,S,8] y) {{
    last = Constant <value = int64[1] {{-1}}> () two = Constant <value = float {{2.0}}> ()
    eps = Constant <value = float {{0.00001}}> () i0 = Constant <value = int64 {{0}}> ()
    i1 = Constant <value = int64 {{1}}> () v0 = Constant <value = int64[1] {{0}}> ()
    heads = Constant <value = int64[1] {{2}}> () rest = Constant <value = int64[1] {{4}}> ()
    v12 = Constant <value = int64[2] {{1, 2}}> () zero = Constant <value = float {{0.0}}> ()
    lowest = Constant <value = float {{-3.4028234663852886e38}}> () half = Constant <value = float {{0.5}}> ()
    root = Constant <value = float {{1.4142135}}> () one = Constant <value = float {{1.0}}> ()
    keep2 = Cast <to = 9> (attention_mask) keep = Unsqueeze (keep2, v12) mask = Where (keep, zero, lowest)
    {SPLIT.format(o="q")}
    {SPLIT.format(o="k")}
    {SPLIT.format(o="v")}
    kt = Transpose <perm = [0, 1, 3, 2]> (k) s0 = MatMul (q, kt) s1 = Div (s0, two) s2 = Add (s1, mask)
    p = Softmax <axis = -1> (s2) a4 = MatMul (p, v) at = Transpose <perm = [0, 2, 1, 3]> (a4)
    ash = Shape (x) a = Reshape (at, ash)
    o_p = MatMul (a, wo) o = Add (o_p, b8) h0 = Add (o, x)
    {NORM.format(o="h", x="h0")}
    f_p = MatMul (h, w1) f = Add (f_p, b16) f_d = Div (f, root) f_e = Erf (f_d) f_1 = Add (f_e, one)
    f_m = Mul (f, f_1) f_g = Mul (f_m, half) o2_p = MatMul (f_g, w2) o2 = Add (b8, o2_p) y0 = Add (h, o2)
    {NORM.format(o="y", x="y0")}
}}"""


def _layer(opset: int = 23) -> ir.Model:
    shapes = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8), "w1": (8, 16), "w2": (16, 8)}
    arrays = {name: random_array(*shape, seed=seed) / 3 for seed, (name, shape) in enumerate(shapes.items())}
    vectors = {"b8": random_array(8, seed=11), "b16": random_array(16, seed=12), "g": random_array(8, seed=13)}
    return add_weights(graph_from(LAYER, opset=opset), **arrays, **vectors)


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_a_layer_becomes_thirteen_nodes_and_its_mask(opset: int) -> None:
    after, _ = default_pipeline().run(_layer(opset))
    rewrite(_layer(opset), *default_pipeline().steps)  # type: ignore[arg-type]
    left = counts(after)
    mask = {
        name: left.pop(name) for name in ("Cast", "Unsqueeze", "Where", "Shape", "Concat", "Expand") if name in left
    }
    assert left == {
        "MatMul": 4, "Add": 2, "Split": 1, "Attention": 1, "Sum": 2, "LayerNormalization": 2, "Gelu": 1,
    }  # fmt: skip
    assert sum(mask.values()) <= 6
    assert [str(value.shape) for value in after.graph.inputs] == ["[B,S,8]", "[B,S]"]


def test_names_of_values_that_stay_are_kept_for_calibration() -> None:
    before = {value.name for node in _layer().graph for value in node.outputs}
    after, _ = default_pipeline().run(_layer())
    names = [value.name for node in after.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    kept = {"q_b", "k_b", "v_b", "a", "h", "f", "f_g", "y"}
    assert kept <= set(names) & before


def test_a_run_loads_no_runtime_and_stays_small(tmp_path: Path) -> None:
    model = add_weights(
        graph_from(
            "g (float[N,2000] x, float[2000,2000] w) => (float[N,2000] y) { a = Identity (x) y = MatMul (a, w) }"
        ),
        w=random_array(2000, 2000),
    )
    save_model(model, tmp_path / "m.onnx")
    code = """if True:
        import sys
        from pathlib import Path
        from passes.catalogue import default_pipeline
        from passes.serialization import load_model, save_model
        folder = Path(sys.argv[1])
        model, _ = default_pipeline().run(load_model(folder / "m.onnx"))
        save_model(model, folder / "out.onnx")
        heavy = {"torch", "onnxruntime", "onnxscript", "onnx.reference", "openvino", "jax"} & set(sys.modules)
        status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory at the fork
        print(sorted(heavy), int(status.split("VmHWM:")[1].split()[0]) / 1024)
    """
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    heavy, peak_mb = run.stdout.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(peak_mb) < 200
    assert (tmp_path / "out.onnx.data").stat().st_size == 16_000_000
