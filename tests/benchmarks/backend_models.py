"""Runs every model of onnx.backend.test through the default pipeline, alone and legalised for ONNX Runtime.

By hand: python FILE [PART-OF-NAME] [--kind node] [--json FILE]. Of each case that ONNX Runtime (its optimizations off)
or onnx's reference evaluator runs untouched, the rewritten graph must give the outputs of the untouched one within the
case's own tolerance, pass the ONNX checker after every pass, and not change in a second run. Cases that draw random
numbers are compared by shape and type. The "light" models, whose weights are constants, get random ones.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

SAME, FAILED, UNSTABLE, NOT_RUN = "same", "FAILED", "UNSTABLE", "not run"
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")


@dataclass(frozen=True, slots=True)
class Case:
    """One model with its inputs."""

    name: str
    model: Any
    feeds: tuple[Mapping[str, Any], ...]
    rtol: float = 1e-3
    atol: float = 1e-7


def cases(kind: str, part: str) -> Iterator[Case]:
    """Yield the cases of one kind whose names contain `part`."""
    import onnx
    from onnx.backend.test.loader import load_model_tests

    if kind == "light":
        yield from _light_cases(part)
        return
    for case in sorted(load_model_tests(kind=kind), key=lambda case: str(case.name)):
        if part not in case.name:
            continue
        if case.model is not None:
            model, sets = case.model, [[_value(proto) for proto in inputs] for inputs, _ in case.data_sets]
        else:
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            sets = [_stored(model, data) for data in sorted(folder.glob("test_data_set_*"))]
        given = {value.name for value in model.graph.initializer}
        names = [value.name for value in model.graph.input]
        required = [name for name in names if name not in given]
        yield Case(
            case.name,
            model,
            tuple(dict(zip(names if len(values) == len(names) else required, values, strict=True)) for values in sets),
            case.rtol,
            case.atol,
        )


def _stored(model: Any, folder: Path) -> list[Any]:
    import onnx

    values = []
    for index, info in enumerate(model.graph.input):
        file = folder / f"input_{index}.pb"
        if not file.exists():
            break
        kinds = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}
        proto = kinds.get(info.type.WhichOneof("value"), onnx.TensorProto)()
        proto.ParseFromString(file.read_bytes())
        values.append(_value(proto))
    return values


def _value(proto: Any) -> Any:
    import onnx
    from onnx import numpy_helper

    if isinstance(proto, onnx.TensorProto):
        return numpy_helper.to_array(proto)
    if isinstance(proto, onnx.SequenceProto):
        return numpy_helper.to_list(proto)
    if isinstance(proto, onnx.OptionalProto):
        return numpy_helper.to_optional(proto)
    return proto if isinstance(proto, list) else np.asarray(proto)


def _light_cases(part: str) -> Iterator[Case]:
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for file in sorted(folder.glob("*.onnx")):
        if part in file.stem:
            model = onnx.load(file)
            randomize(model)
            info = model.graph.input[0]
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            feed = {info.name: np.random.default_rng(7).standard_normal(shape).astype(np.float32)}
            yield Case(file.stem, model, (feed,), rtol=1e-3, atol=1e-4)


def randomize(model: Any) -> None:
    """Replace the constant weights of a light model by random ones of a size that keeps activations near 1."""
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    random = np.random.default_rng(0)
    kept, fresh = [], {}
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in stored:
            fresh[node.output[0]] = [int(size) for size in stored[node.input[0]]]
        else:
            kept.append(node)
    variances = {node.input[4] for node in graph.node if node.op_type == "BatchNormalization"}
    scales = {node.input[1] for node in graph.node if node.op_type == "BatchNormalization"}
    del graph.node[:]
    graph.node.extend(kept)
    for name, shape in fresh.items():
        array = random.standard_normal(shape) * np.sqrt(2 / max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 0.01)
        if name in variances or name in scales:
            array = 1 + 0.3 * random.random(shape)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    read = {name for node in graph.node for name in node.input}
    for values in (graph.initializer, graph.input):
        for value in [value for value in values if value.name not in read]:
            values.remove(value)
    given = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in given]:
        graph.input.remove(value)
    model.ir_version = max(model.ir_version, 4)


def pipelines() -> dict[str, Any]:
    """Return the pipelines to try, each with the capabilities that its passes read."""
    from passes.capabilities import PORTABLE
    from passes.catalogue import default_pipeline
    from targets.base import BuildOptions
    from targets.registry import get_target

    runtime, options = get_target("onnxruntime"), BuildOptions()
    legalised = default_pipeline() + runtime.pipeline(options)
    return {"default": (default_pipeline(), PORTABLE), "onnxruntime": (legalised, runtime.capabilities(options))}


def try_case(case: Case, pipeline: Any, capabilities: Any) -> tuple[str, str]:
    """Return one of the verdicts above, and the reason when it is not SAME."""
    import onnx_ir as ir

    from passes.base import Context
    from passes.observers import CheckStructure
    from tests.support.running import CannotRun, outputs_difference, run_anywhere

    try:
        before = [run_anywhere(case.model, feed) for feed in case.feeds]
        repeated = [
            run_anywhere(case.model, feed, first=run.runtime) for feed, run in zip(case.feeds, before, strict=True)
        ]
    except CannotRun as error:
        return NOT_RUN, str(error)
    exact = {"rtol": 0.0, "atol": 0.0}
    is_random = any(node.op_type in _RANDOM for node in case.model.graph.node) or any(
        outputs_difference(a.outputs, b.outputs, **exact) for a, b in zip(before, repeated, strict=True)
    )
    observers = [CheckStructure(str(pipeline))] if _is_checkable(case.model) else []
    try:
        model = ir.from_proto(case.model)
        after, _ = pipeline.run(model, context=Context(capabilities), observers=observers)
        proto = ir.to_proto(after)
        again, results = pipeline.run(after, context=Context(capabilities))
    except Exception as error:
        return FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
    for run, feed in zip(before, case.feeds, strict=True):
        try:
            new = run_anywhere(proto, feed, first=run.runtime)
        except CannotRun as error:
            return FAILED, f"does not run any more: {error}"
        rtol, atol = (0.0, 1e300) if is_random else (case.rtol, case.atol)
        found = outputs_difference(run.outputs, new.outputs, rtol=rtol, atol=atol)
        if found:
            return FAILED, f"{found} (before in {run.runtime}, after in {new.runtime})"
    if ir.to_proto(again).SerializeToString(deterministic=True) != proto.SerializeToString(deterministic=True):
        events = [f"{event.rule} at {event.node}" for result in results for event in result.applied]
        return UNSTABLE, f"a second run changes the graph: {events[:6]}"
    return SAME, "random: shapes compared" if is_random else ""


def _is_checkable(model: Any) -> bool:
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="", help="only cases whose name contains this")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these kinds; default: all")
    parser.add_argument("--json", type=Path, help="write every verdict here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    logging.disable(logging.WARNING)
    verdicts: dict[str, dict[str, tuple[str, str]]] = {}
    tried = pipelines()
    for kind in arguments.kind or KINDS:
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for case in cases(kind, arguments.part):
            for label, (pipeline, capabilities) in tried.items():
                verdict, reason = try_case(case, pipeline, capabilities)
                verdicts.setdefault(f"{kind}/{case.name}", {})[label] = (verdict, reason)
                counts[label, verdict] += 1
                if verdict in (FAILED, UNSTABLE) or (verdict == NOT_RUN and label == "default"):
                    print(f"{verdict} {kind}/{case.name} [{label}]: {reason}", flush=True)
                if verdict == NOT_RUN:
                    break
        print(f"{kind}: " + ", ".join(f"{label} {verdict} {count}" for (label, verdict), count in counts.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(verdicts, indent=1, sort_keys=True))
    sys.exit(any(verdict in (FAILED, UNSTABLE) for row in verdicts.values() for verdict, _ in row.values()))


if __name__ == "__main__":
    main()
