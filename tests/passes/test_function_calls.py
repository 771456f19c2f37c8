from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.function_calls import circular_call

HEAD = '<ir_version: 10, opset_import: ["" : 23, "l" : 1]>\ng (float[2] x) => (float[2] y) { y = l.a (x) }\n'


def function(name: str, *called: str) -> str:
    steps, last = "", "p"
    for index, one in enumerate(called):
        steps += f"v{index} = {one} ({last}) "
        last = f"v{index}"
    return f'<domain: "l", opset_import: ["" : 23, "l" : 1]> {name} (p) => (q) {{ {steps} q = Neg ({last}) }}\n'


@pytest.mark.parametrize(
    ("functions", "circle"),
    [
        ((("a",),), ""),
        ((("a", "l.b", "l.b", "l.c"), ("b", "l.c"), ("c", "Abs")), ""),
        ((("a", "l.a"),), "a -> a"),
        ((("a", "l.b"), ("b", "l.c"), ("c", "Abs", "l.b")), "b -> c -> b"),
    ],
)
def test_a_circle_of_calls_is_named(functions: tuple[tuple[str, ...], ...], circle: str) -> None:
    model = ir.from_onnx_text(HEAD + "".join(function(*each) for each in functions))
    assert circular_call(model) == circle
