from __future__ import annotations

import sys

import onnx_ir as ir

from passes.catalogue import default_pipeline
from tests.benchmarks.optimizers.deep import deep_model


def _calls(layers: int) -> int:
    """Return how many functions the default pipeline calls: work that does not depend on the machine's load."""
    model = ir.from_proto(deep_model(layers))
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        default_pipeline().run(model, is_consumed=True)
    finally:
        sys.setprofile(before)
    return calls


def test_four_times_as_many_layers_take_four_times_the_work() -> None:
    """The layers share tensors (cosines, sines, a mask), which join all of them into one region for push-transposes."""
    _calls(2)  # what is imported and cached once
    shallow, deep = _calls(16), _calls(64)
    assert deep <= 4.15 * shallow, deep / shallow
