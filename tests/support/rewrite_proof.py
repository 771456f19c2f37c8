"""What must hold for any pipeline on any legal graph, and how a graph that breaks it is cut down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from passes.base import Context
from passes.capabilities import PORTABLE, Capabilities
from passes.catalogue import PASSES, default_pipeline
from passes.observers import CheckStructure
from passes.pipeline import Pipeline
from tests.support.running import CannotRun, Run, outputs_difference, run_anywhere

TOLERANCE = {onnx.TensorProto.FLOAT16: (1e-2, 1e-2), onnx.TensorProto.BFLOAT16: (1e-1, 1e-1)}
"""Where a float input is half precision; otherwise fp32's, which rewrites may use up by reordering sums."""
_FP32_TOLERANCE = (1e-4, 1e-5)

_SENSITIVITY = 30.0
"""A mismatch counts when it is larger than so many times what a relative change of 1e-6 of the inputs causes."""

BARE = Capabilities(name="bare", opset_limit=23, kernels=frozenset({"Add", "Mul"}))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold, for one pipeline."""

    pipeline: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"[{self.pipeline}] {self.kind}: {self.text}"


Pipelines = Mapping[str, tuple[Pipeline, Capabilities]]


def whole_pipelines() -> dict[str, tuple[Pipeline, Capabilities]]:
    """Return the default pipeline, alone and with ONNX Runtime's legalisation."""
    from targets.base import BuildOptions
    from targets.registry import get_target

    runtime, options = get_target("onnxruntime"), BuildOptions()
    legalised = default_pipeline() + runtime.pipeline(options)
    return {"default": (default_pipeline(), PORTABLE), "onnxruntime": (legalised, runtime.capabilities(options))}


def single_passes() -> dict[str, tuple[Pipeline, Capabilities]]:
    """Return each pass that keeps results, alone; those that lower operators for a runtime that has few."""
    _, runtime = whole_pipelines()["onnxruntime"]
    lossy = ("quantize", "convert", "cast")
    return {
        name: (Pipeline((kind(),)), BARE if name.startswith("expand") else runtime)
        for name, kind in PASSES.items()
        if not name.startswith(lossy)
    }


def problems(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, Any]],
    jittered: Sequence[Mapping[str, Any]],
    pipelines: Pipelines,
) -> list[Problem]:
    """Return all that does not hold; raises CannotRun when the untouched graph runs nowhere."""
    before = [run_anywhere(model, feed) for feed in feeds]
    found = []
    for label, (pipeline, capabilities) in pipelines.items():
        found += [
            Problem(label, kind, text) for kind, text in _broken(model, feeds, jittered, before, pipeline, capabilities)
        ]
    return found


def _broken(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, Any]],
    jittered: Sequence[Mapping[str, Any]],
    before: Sequence[Run],
    pipeline: Pipeline,
    capabilities: Capabilities,
) -> Iterator[tuple[str, str]]:
    context = Context(capabilities)
    source = ir.from_proto(model)
    try:
        after, results = pipeline.run(source, context=context, observers=[CheckStructure()])
        proto = ir.to_proto(after)
        data = proto.SerializeToString(deterministic=True)
        repeated = ir.to_proto(pipeline.run(source, context=context)[0]).SerializeToString(deterministic=True)
        again, second = pipeline.run(after, context=context)
        last = ir.to_proto(again).SerializeToString(deterministic=True)
    except Exception as error:
        yield "crash", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        return
    if repeated != data:
        yield "not deterministic", "two runs give different bytes"
    if last != data and len(pipeline.steps) > 1:
        events = [f"{event.rule} at {event.node}" for result in second for event in result.applied]
        yield "no fixed point", f"a second run applies {events[:5]}"
    for index, (feed, run) in enumerate(zip(feeds, before, strict=True)):
        try:
            new = run_anywhere(proto, feed, first=run.runtime)
        except CannotRun as error:
            if run.runtime == "reference" and any(node.domain for node in proto.graph.node):
                return  # ONNX Runtime lacks a kernel of the untouched graph too, and the reference its own operators
            yield "does not run", f"inputs {index}: {error}"
            return
        rtol, atol = _tolerance(model)
        if not outputs_difference(run.outputs, new.outputs, rtol=rtol, atol=atol):
            continue
        moved = run_anywhere(model, jittered[index], first=run.runtime)
        text = _beyond(run.outputs, new.outputs, moved.outputs, rtol, atol)
        if text:
            applied = sorted({event.rule for result in results for event in result.applied})
            yield "mismatch", f"inputs {index} in {run.runtime} and {new.runtime}: {text}; applied {applied}"
            return


def _tolerance(model: onnx.ModelProto) -> tuple[float, float]:
    kinds = {info.type.tensor_type.elem_type for info in model.graph.input}
    casts = {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    half = (kinds | casts) & TOLERANCE.keys()
    return max((TOLERANCE[kind] for kind in half), default=_FP32_TOLERANCE)


def _beyond(old: Mapping[str, Any], new: Mapping[str, Any], moved: Mapping[str, Any], rtol: float, atol: float) -> str:
    """Return a difference that rounding does not explain."""
    for name in old:
        text = outputs_difference({name: old[name]}, {name: new.get(name)}, rtol=rtol, atol=atol)
        if not text:
            continue
        first, second, third = (np.asarray(values.get(name)) for values in (old, new, moved))
        if first.shape != second.shape or first.dtype != second.dtype or first.dtype.kind not in "f":
            return text
        with np.errstate(all="ignore"):
            noise = np.nanmax(np.abs(first.astype(float) - third.astype(float)), initial=0.0)
            error = np.nanmax(np.abs(first.astype(float) - second.astype(float)), initial=0.0)
        if np.array_equal(np.isfinite(first), np.isfinite(second)) and error <= _SENSITIVITY * noise:
            continue
        return text
    return ""


def reduced(model: onnx.ModelProto, is_bad: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """Return a smaller model that is still bad: other outputs, fewer nodes."""
    best = model
    is_shrinking = True
    while is_shrinking:
        is_shrinking = False
        for candidate in _smaller(best):
            try:
                is_worth = is_bad(candidate)
            except Exception:
                continue
            if is_worth:
                best, is_shrinking = candidate, True
                break
    return best


def _smaller(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    known = onnx.shape_inference.infer_shapes(model).graph
    infos = {info.name: info for info in (*known.value_info, *model.graph.input, *model.graph.output)}
    size = len(model.graph.node)
    if len(model.graph.output) > 1:
        for index in range(len(model.graph.output)):
            copy = _copy(model)
            del copy.graph.output[index]
            yield _without_dead(copy)
    for node in model.graph.node[::-1]:
        for replacement in node.input:
            if not replacement or replacement not in infos:
                continue
            first = infos.get(node.output[0])
            if first is None or first.type != infos[replacement].type:
                continue
            copy = _copy(model)
            _rename(copy.graph, node.output[0], replacement)
            smaller = _without_dead(copy)
            if len(smaller.graph.node) < size:
                yield smaller
    for node in model.graph.node[::-1]:
        for name in node.output:
            if len(node.input) and name in infos and not any(name == output.name for output in model.graph.output):
                copy = _copy(model)
                copy.graph.node.remove(next(other for other in copy.graph.node if name in other.output))
                copy.graph.input.append(infos[name])
                for value in [value for value in copy.graph.value_info if value.name == name]:
                    copy.graph.value_info.remove(value)
                smaller = _without_dead(copy)
                if len(smaller.graph.node) < size:
                    yield smaller
    if len(model.graph.output) == 1:
        for node in model.graph.node[:-1]:
            for name in node.output:
                if name in infos:
                    copy = _copy(model)
                    del copy.graph.output[:]
                    copy.graph.output.append(infos[name])
                    smaller = _without_dead(copy)
                    if len(smaller.graph.node) < size:
                        yield smaller


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)
                for output in attribute.g.output:
                    if output.name == old:
                        output.name = new


def _without_dead(model: onnx.ModelProto) -> onnx.ModelProto:
    live = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if any(name in live for name in node.output):
            kept.append(node)
            live.update(_read(node))
    kept.reverse()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for values in (model.graph.initializer, model.graph.value_info):
        for value in [value for value in values if value.name not in live]:
            values.remove(value)
    outputs = {output.name for output in model.graph.output}
    for value in [value for value in model.graph.value_info if value.name in outputs]:
        model.graph.value_info.remove(value)
    return model


def _read(node: Any) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                names |= _read(inner)
            names |= {output.name for output in attribute.g.output}
    return names
