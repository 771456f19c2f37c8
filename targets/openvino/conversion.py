"""The ONNX front end: a graph to an OpenVINO model, with exact names and without counters of the process in them."""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import BuildFailed, UsageError
from passes.serialization import save_model

if TYPE_CHECKING:
    import onnx_ir as ir

_OWN_SOURCES = ("Exception from", "Check '", "FrontEnd API failed")
_LAYER = re.compile(r'<layer id="(\d+)" name="([^"]*)" type="([^"]*)"')


@contextmanager
def as_onnx_file(model: ir.Model) -> Iterator[Path]:
    """Yield a file that holds the graph, its weights beside it; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="graphwright-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        yield path


def converted(path: Path, core: Any) -> Any:
    """Return the OpenVINO model of an ONNX file. Raises BuildFailed with the front end's cause."""
    try:
        return core.read_model(str(path))
    except Exception as error:  # front ends raise RuntimeError and what their translators raise
        raise BuildFailed(f"OpenVINO does not convert the model: {cause_from_error(error)}") from error


def name_ports(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give every input and output its ONNX name; raises BuildFailed when the converted model has more or fewer."""
    for kind, ports, names in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        if len(ports) != len(names):
            raise BuildFailed(
                f"OpenVINO gave the model {len(ports)} {kind} instead of {len(names)}.",
                hint="An input that no node reads, or an output that is a constant, may be the cause.",
            )
        for port, name in zip(ports, names, strict=True):
            if name not in port.get_names():
                port.get_tensor().add_names({name})


def verify_ports(ports: Any, names: Sequence[str]) -> None:
    """Raise BuildFailed unless the written model has these names in this order, which the runner relies on."""
    found = [port.get_names() for port in ports]
    if len(found) != len(names) or any(name not in port for name, port in zip(names, found, strict=True)):
        raise BuildFailed(f"The written model has {found} where the graph has {list(names)}.")


def save_ir(converted_model: Any, path: Path, *, compress_to_fp16: bool, taken: frozenset[str]) -> None:
    """Write `path` (.xml) and the .bin next to it, equal bytes for equal graphs.

    The front end names what it makes by a counter of the process ("Constant_5285"); here such nodes are named by their
    place. `taken` are the names that come from the ONNX graph, which stay, as do parts of them ("gemm/WithoutBiases").
    """
    from targets.openvino.runtime import load_openvino

    def renamed(match: re.Match[str]) -> str:
        index, name, kind = match.groups()
        own = html.unescape(name)
        if kind in ("Parameter", "Result") or own in taken or own.rpartition("/")[0] in taken:
            return match[0]
        return f'<layer id="{index}" name="{kind}_{index}" type="{kind}"'

    try:
        load_openvino().save_model(converted_model, str(path), compress_to_fp16=compress_to_fp16)
        path.write_text(_LAYER.sub(renamed, path.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, RuntimeError) as error:
        for leftover in (path, path.with_suffix(".bin")):
            leftover.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written: {cause_from_error(error)}",
            hint="Free disk space or choose another folder.",
        ) from error


def onnx_names(model: ir.Model) -> frozenset[str]:
    """Return every name of a node, an initializer or a value that the front end may take over."""
    names: set[str] = set()
    for graph in model.graphs():
        names.update(graph.initializers)
        names.update(str(value.name) for value in graph.inputs)
        for node in graph:
            names.add(str(node.name))
            names.update(str(value.name) for value in node.outputs if value.name)
    return frozenset(names)


def cause_from_error(error: Exception) -> str:
    """Return the runtime's message without the lines that name its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_OWN_SOURCES)]
    return " ".join(kept) or " ".join(lines)
