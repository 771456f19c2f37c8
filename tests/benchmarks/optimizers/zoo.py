"""Export the benchmark's networks by both of PyTorch's exporters, with inputs and torch's own outputs at three sizes.

python tests/benchmarks/optimizers/zoo.py OUT [NAME | NAME-dynamo | NAME-legacy ...]

OUT/NAME-EXPORTER.onnx is what the exporter wrote; OUT/NAME-EXPORTER/{traced,untraced1,untraced2}.npz hold inputs and
outputs by the graph's own names; OUT/NAME-EXPORTER/export.json says how it went, OUT/INDEX.md all of it. Each export
is a fresh process. A legacy file of over 64 MB is rewritten with external data, its nodes untouched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXPORTERS = ("dynamo", "legacy")
SIZES = ("traced", "untraced1", "untraced2")
LONGEST_EXPORT_S = 580
EXTERNAL_BYTES = 64 * 2**20


def main(out: Path, wanted: list[str]) -> None:
    from networks import LARGE, NETWORKS

    every = [
        f"{name}-{exporter}"
        for name in (*NETWORKS, *(LARGE if wanted else ()))
        for exporter in EXPORTERS
        if (name, exporter) not in NEVER
    ]
    chosen = [graph for graph in every if not wanted or graph in wanted or graph.rpartition("-")[0] in wanted]
    for graph in chosen:
        started = time.perf_counter()
        folder = out / graph
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--one", str(out), graph]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_EXPORT_S)
            failure = "" if done.returncode == 0 else reason(done.stdout + done.stderr)
        except subprocess.TimeoutExpired:
            failure = f"not finished after {LONGEST_EXPORT_S} s"
        result = {"graph": graph, "seconds": round(time.perf_counter() - started, 1), "failure": failure}
        if not failure:
            result |= described(out / f"{graph}.onnx")
        (folder / "export.json").write_text(json.dumps(result))
        print(json.dumps(result), flush=True)
        write_index(out)


NEVER = {("smol23", "legacy"), ("minilm23", "legacy")}
"""Not asked for: the legacy exporter stops at opset 20."""


def reason(text: str) -> str:
    """Return the last line that names an exception, or the last line."""
    lines = [line.strip().replace("<class '", "").replace("'>: ", ": ") for line in text.splitlines() if line.strip()]
    named = [
        line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception", "Unsupported"))
    ]
    return (named or lines or ["killed"])[-1][:300]


def described(path: Path) -> dict[str, Any]:
    import onnx
    from counting import node_count

    model = onnx.load(path, load_external_data=False)
    domains = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return {"nodes": node_count(model), "opset": domains.get("ai.onnx", 0), "domains": domains}


def write_index(out: Path) -> None:
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*/export.json"))]
    lines = ["| graph | opset | nodes | export s | failure |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row["graph"], row.get("opset", ""), row.get("nodes", ""), row["seconds"], row["failure"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    (out / "INDEX.md").write_text("\n".join(lines) + "\n")


def export(out: Path, graph: str) -> None:
    import numpy as np
    import onnx
    import torch
    from networks import LARGE, NETWORKS
    from torch.utils import _pytree as pytree

    name, _, exporter = graph.rpartition("-")
    network = (NETWORKS | LARGE)[name]()
    samples = [network.sample(*size) for size in network.sizes]
    results = []
    with torch.no_grad():
        for sample in samples:
            results.append([leaf.numpy(force=True) for leaf in pytree.tree_leaves(network.module(**sample))])
    save_config(network.module, out / graph)
    path = out / f"{graph}.onnx"
    EXPORT[exporter](network, samples[0], path)
    names = [output.name for output in onnx.load(path, load_external_data=False).graph.output]
    for size, sample, arrays in zip(SIZES, samples, results, strict=True):
        inputs = {key: value.numpy() for key, value in sample.items()}
        outputs = dict(zip(names, arrays, strict=True))
        np.savez(
            out / graph / f"{size}.npz",
            **{f"in:{key}": value for key, value in inputs.items()},
            **{f"out:{key}": value for key, value in outputs.items()},
        )


def save_config(module: Any, folder: Path) -> None:
    """Write the transformers configuration in `module`, which two of the optimizers ask for, where there is one."""
    configs = [part.config for part in module.modules() if hasattr(getattr(part, "config", None), "save_pretrained")]
    if configs:
        configs[0].save_pretrained(folder)


def export_dynamo(network: Any, sample: dict[str, Any], path: Path) -> None:
    import torch

    multiples = dict(network.multiples)
    names = sorted({name for axes in network.axes.values() for name in axes.values()})
    dims = {name: multiples.get(name, 1) * torch.export.Dim(name) for name in names if name in multiples}
    dims |= {name: torch.export.Dim(name) for name in names if name not in multiples}
    shapes = {key: {axis: dims[dim] for axis, dim in network.axes[key].items()} for key in sample}
    torch.onnx.export(
        network.module,
        kwargs=sample,
        f=str(path),
        dynamo=True,
        dynamic_shapes=shapes,
        **({} if network.opset is None else {"opset_version": network.opset}),
    )


def export_legacy(network: Any, sample: dict[str, Any], path: Path) -> None:
    import onnx
    import torch
    from torch.utils import _pytree as pytree

    class Flat(torch.nn.Module):
        """Tensors by position in and a tuple of tensors out, which is all that the legacy exporter takes."""

        def __init__(self) -> None:
            super().__init__()
            self.module = network.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.module(**dict(zip(sample, tensors, strict=True)))
            return tuple(pytree.tree_leaves(result))

    torch.onnx.export(
        Flat().eval(),
        tuple(sample.values()),
        str(path),
        dynamo=False,
        input_names=list(sample),
        dynamic_axes=network.axes,
    )
    if path.stat().st_size > EXTERNAL_BYTES:
        model = onnx.load(path)
        path.unlink()
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


EXPORT = {"dynamo": export_dynamo, "legacy": export_legacy}

if __name__ == "__main__":
    if sys.argv[1] == "--one":
        export(Path(sys.argv[2]), sys.argv[3])
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
