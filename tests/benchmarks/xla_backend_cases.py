"""Runs the node cases of onnx.backend.test through the XLA lowering and counts them. By hand: python FILE [name].

A case counts as passed when every output has the expected shape, type and values (the case's own tolerances). Inputs
that an operator needs at trace time (shapes, axes) are bound as constants when the first try fails for that reason;
these are counted apart.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PASSED, PASSED_BOUND, FAILED, REFUSED = "passed", "passed with bound inputs", "failed", "refused"


def node_cases() -> list[Any]:
    """Return all node cases of the installed onnx package."""
    from onnx.backend.test.loader import load_model_tests

    return sorted(load_model_tests(kind="node"), key=lambda case: case.name)


def tensors_of(values: Any) -> list[Any]:
    """Return a case's inputs or outputs as arrays, or raise TypeError for sequences, optionals and strings."""
    import onnx

    found = []
    for value in values:
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        if not isinstance(value, np.ndarray | np.generic):
            raise TypeError("not a tensor")
        if value.dtype.kind in "OSU":
            raise TypeError("strings")
        found.append(np.asarray(value))
    return found


def run_case(case: Any) -> tuple[str, str]:
    """Return one of the verdicts above, and the reason when it did not pass."""
    import onnx_ir as ir

    model = case.model
    try:
        inputs, expected = (tensors_of(values) for values in case.data_sets[0])
    except TypeError as error:
        return REFUSED, str(error)
    verdict, reason = attempt(ir.from_proto(model), inputs, expected, case)
    if verdict != REFUSED:
        return verdict, reason
    bound, rest = bind_small(model, inputs)
    verdict, again = attempt(ir.from_proto(bound), rest, expected, case)
    return (PASSED_BOUND, "") if verdict == PASSED else (verdict, again)


def bind_small(model: Any, inputs: list[Any]) -> tuple[Any, list[Any]]:
    """Return the model with every integer and one-element input as a constant, and the inputs that are left."""
    import onnx

    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    names = [value.name for value in model.graph.input]
    rest, kept = [], []
    for value, array, name in zip(model.graph.input, inputs, names, strict=True):
        is_shape = array.size <= 1 or (array.ndim <= 1 and array.dtype.kind in "iufb")
        if is_shape:
            bound.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        else:
            rest.append(array)
            kept.append(value)
    if not kept and inputs:
        # Everything was small: bind all, which leaves a program without inputs.
        rest = []
    del bound.graph.input[:]
    bound.graph.input.extend(kept)
    return bound, rest


def attempt(model: Any, inputs: list[Any], expected: list[Any], case: Any) -> tuple[str, str]:
    import jax

    from targets.xla.backend import load_jax, tracing
    from targets.xla.lowering.program import Program
    from targets.xla.weights import weights_of

    load_jax()
    program = Program(model)
    weights = {name: np.asarray(tensor.numpy()) for name, tensor in weights_of(model).items()}
    try:
        with tracing("highest"):
            actual = jax.jit(lambda weights, inputs: program(weights, inputs))(weights, inputs)
            actual = [np.asarray(value) for value in actual]
    except Exception as error:
        return REFUSED, f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    return compare(actual, expected, case)


def compare(actual: list[Any], expected: list[Any], case: Any) -> tuple[str, str]:
    if len(actual) < len(expected):
        return FAILED, f"{len(actual)} outputs instead of {len(expected)}"
    for got, want in zip(actual, expected, strict=False):
        if got.shape != want.shape or got.dtype != want.dtype:
            return FAILED, f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
        is_float = want.dtype.kind not in "iub"
        left, right = (value.astype(np.float64) if is_float else value for value in (got, want))
        if want.dtype.kind == "c":
            left, right = got, want
        try:
            np.testing.assert_allclose(left, right, rtol=case.rtol, atol=case.atol)
        except AssertionError as error:
            lines = [line for line in str(error).splitlines() if "Max" in line or "Mismatch" in line]
            return FAILED, "; ".join(lines)
    return PASSED, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write every verdict here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    verdicts: dict[str, tuple[str, str]] = {}
    for case in node_cases():
        if arguments.name in case.name:
            verdicts[case.name] = run_case(case)
    counts = collections.Counter(verdict for verdict, _ in verdicts.values())
    for name, (verdict, reason) in verdicts.items():
        if not verdict.startswith("passed"):
            print(f"{verdict:8} {name}: {reason}")
    print(f"{len(verdicts)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    if arguments.json:
        arguments.json.write_text(json.dumps(verdicts, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
