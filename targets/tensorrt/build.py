"""One ONNX file to one engine, with whichever TensorRT module: the function that runs in a process of its own."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.errors import BuildFailed, ModelBlocked
from targets.tensorrt.diagnosis import blockers_from_parser
from targets.tensorrt.session import Session, open_session

_MESSAGES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class InputRange:
    """The least, usual and greatest shape of one input: one row of an optimization profile."""

    minimum: tuple[int, ...]
    usual: tuple[int, ...]
    maximum: tuple[int, ...]


def build_engine(
    onnx_path: str,
    engine_path: str,
    *,
    module: str,
    architecture: int | None,
    ranges: Mapping[str, Sequence[Sequence[int]]],
    workspace_bytes: int | None,
    optimization_level: int | None,
    tf32: bool,
) -> dict[str, Any]:
    """Return what TensorRT says of the engine that it wrote to `engine_path`: version, bytes, layers and types.

    architecture: the compute capability to build ahead of time for; None builds for the GPU of this machine.
    ranges: input name -> its least, usual and greatest shape.

    Raises ModelBlocked with every node that the parser refuses, BuildFailed when the builder itself fails.
    """
    session = open_session(importlib.import_module(module))
    if not session.parser.parse_from_file(onnx_path):
        raise ModelBlocked("tensorrt", blockers_from_parser(session, Path(onnx_path)))
    config = _config(
        session,
        architecture=architecture,
        workspace_bytes=workspace_bytes,
        optimization_level=optimization_level,
        tf32=tf32,
    )
    _add_profile(session, config, {name: InputRange(*map(tuple, shapes)) for name, shapes in ranges.items()})
    plan = session.builder.build_serialized_network(session.network, config)
    if plan is None:
        raise BuildFailed(_failure_text(session, architecture))
    Path(engine_path).write_bytes(plan)
    return {"version": str(session.trt.__version__), "bytes": int(plan.nbytes), **_description(session)}


def _config(
    session: Session,
    *,
    architecture: int | None,
    workspace_bytes: int | None,
    optimization_level: int | None,
    tf32: bool,
) -> Any:
    trt = session.trt
    config = session.builder.create_builder_config()
    if architecture is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{architecture}"), 0)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    return config


def _add_profile(session: Session, config: Any, ranges: Mapping[str, InputRange]) -> None:
    """Give every input its range; TensorRT wants one profile when any input has a dynamic dimension."""
    profile = session.builder.create_optimization_profile()
    is_dynamic = False
    for index in range(session.network.num_inputs):
        tensor = session.network.get_input(index)
        if tensor.is_shape_tensor:
            raise BuildFailed(
                f"The input '{tensor.name}' decides other tensors' shapes: TensorRT needs the range of its values.",
                hint="Make it a constant, or derive the shape from another input's shape.",
            )
        found = ranges[tensor.name]
        is_dynamic = is_dynamic or -1 in tuple(tensor.shape)
        profile.set_shape(tensor.name, found.minimum, found.usual, found.maximum)
    if is_dynamic:
        config.add_optimization_profile(profile)


def _failure_text(session: Session, architecture: int | None) -> str:
    where = f" for SM{architecture}" if architecture is not None else ""
    said = "\n".join(f"  {text}" for text in session.messages[-_MESSAGES_SHOWN:])
    return f"TensorRT parsed the model and could not build an engine{where}." + (f" It said:\n{said}" if said else "")


def _description(session: Session) -> dict[str, Any]:
    """Return the network as TensorRT holds it: layer kinds, the types of their outputs, inputs and outputs."""
    network = session.network
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = Counter(layer.type.name for layer in layers)
    types = Counter(layer.get_output(index).dtype.name for layer in layers for index in range(layer.num_outputs))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {
        "layers": len(layers),
        "layer_kinds": dict(sorted(kinds.items())),
        "tensor_types": dict(sorted(types.items())),
        "inputs": {tensor.name: tensor.dtype.name for tensor in inputs},
        "outputs": {tensor.name: tensor.dtype.name for tensor in outputs},
    }
