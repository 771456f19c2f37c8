"""Graph optimizers as functions from file to file, each with its default settings as its users call it.

`python peers.py TOOL SOURCE OUT` runs one in this process and prints one line of JSON: the seconds of the call (the
imports excluded), and the peak memory of the process: VmHWM, since ru_maxrss starts at the parent's on Linux. SOURCE's
weights may be external; OUT's are where they were.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[Path, Path], object]


def untouched() -> Call:
    """Nothing: the exporter's file itself, to know its nodes and whether it is right."""

    def call(source: Path, out: Path) -> None:
        for file in (source, source.with_name(f"{source.name}.data")):
            if file.exists():
                (out.parent / file.name).hardlink_to(file)

    return call


def graphwright() -> Call:
    """The default pipeline, through the command line."""
    from exporter.cli import main

    return lambda source, out: _command(main, "optimize", str(source), "-o", str(out))


def graphwright_ort() -> Call:
    """The same, legalised for ONNX Runtime."""
    from exporter.cli import main

    return lambda source, out: _command(main, "optimize", str(source), "-o", str(out), "--target", "onnxruntime")


def graphwright_fewest() -> Call:
    """The same, with every fused operator that ONNX Runtime has, also those that were measured slower."""
    from exporter.cli import main

    target = "onnxruntime:operators=fewest"
    return lambda source, out: _command(main, "optimize", str(source), "-o", str(out), "--target", target)


def _command(main: Any, *arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as stop:
        if stop.code:
            raise  # its message is the last that was printed


def onnxsim() -> Call:
    import onnx
    import onnxsim as peer

    def call(source: Path, out: Path) -> None:
        model, is_same = peer.simplify(str(source))
        if not is_same:
            raise RuntimeError("its own check failed")
        _save(onnx, model, source, out)

    return call


def onnxslim() -> Call:
    import onnxslim as peer

    return lambda source, out: peer.slim(str(source), str(out), save_as_external_data=_has_data(source))


def onnxoptimizer() -> Call:
    import onnx
    import onnxoptimizer as peer

    return lambda source, out: _save(onnx, peer.optimize(onnx.load(source), fixed_point=True), source, out)


def ort_extended() -> Call:
    return _ort("ORT_ENABLE_EXTENDED")


def ort_all() -> Call:
    """With the layouts of this processor, which the saved file is then bound to."""
    return _ort("ORT_ENABLE_ALL")


def _ort(level: str) -> Call:
    import onnxruntime

    def call(source: Path, out: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(out)
        options.log_severity_level = 3
        if _has_data(source):
            prefix = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{prefix}_file_name", f"{out.name}.data")
            options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return call


TRANSFORMERS_TYPES = {"bert": "bert", "gpt2": "gpt2", "llama": "gpt2", "t5": "t5", "vit": "vit", "whisper": "bart"}
"""What ONNX Runtime's tool calls each family; optimum has its own table."""

HEADS = ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads")


def ort_transformers() -> Call:
    """ONNX Runtime's tool for transformers, told the family, heads and hidden size from the model's configuration."""
    from onnxruntime.transformers.optimizer import optimize_model

    def call(source: Path, out: Path) -> None:
        config = json.loads((source.with_suffix("") / "config.json").read_text())
        heads = next(config[key] for key in HEADS if key in config)
        hidden = next(config[key] for key in ("hidden_size", "n_embd", "d_model") if key in config)
        kind = TRANSFORMERS_TYPES[config["model_type"]]
        optimized = optimize_model(str(source), kind, num_heads=heads, hidden_size=hidden)
        optimized.save_model_to_file(str(out), use_external_data_format=_has_data(source))

    return call


def onnxscript_optimize() -> Call:
    import onnx_ir
    from onnxscript import optimizer

    def call(source: Path, out: Path) -> None:
        model = onnx_ir.load(source)
        optimizer.optimize(model)
        onnx_ir.save(model, out, external_data=f"{out.name}.data" if _has_data(source) else None)

    return call


def onnxscript_ort() -> Call:
    """onnxscript's fusions for ONNX Runtime, after its optimizer."""
    import onnx_ir
    from onnxscript import optimizer
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    def call(source: Path, out: Path) -> None:
        model = onnx_ir.load(source)
        optimizer.optimize(model)
        optimize_for_ort(model)
        onnx_ir.save(model, out, external_data=f"{out.name}.data" if _has_data(source) else None)

    return call


def optimum_o2() -> Call:
    """optimum's level O2; it has its own environment, and needs the model next to its configuration."""
    from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer

    def call(source: Path, out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            shutil.copy(source.with_suffix("") / "config.json", folder)
            for file in source.parent.glob(f"{source.name}*"):
                (Path(folder) / file.name).symlink_to(file)
            optimizer = ORTOptimizer.from_pretrained(folder, file_names=[source.name])
            optimizer.optimize(AutoOptimizationConfig.O2(), save_dir=f"{folder}/out", file_suffix=None)
            for file in (Path(folder) / "out").glob(f"{source.name}*"):
                file.replace(out.parent / file.name)

    return call


def _has_data(source: Path) -> bool:
    return source.with_name(f"{source.name}.data").exists()


def _save(onnx: Any, model: Any, source: Path, out: Path) -> None:
    external = _has_data(source)
    onnx.save(model, out, save_as_external_data=external, location=f"{out.name}.data" if external else None)


def peak_mb() -> float:
    """Return the peak resident memory of this process so far, MiB; pages of a mapped file count while they are in."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


TOOLS: dict[str, Callable[[], Call]] = {
    "untouched": untouched,
    "graphwright": graphwright,
    "graphwright-ort": graphwright_ort,
    "graphwright-fewest": graphwright_fewest,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxoptimizer": onnxoptimizer,
    "ort-extended": ort_extended,
    "ort-all": ort_all,
    "ort-transformers": ort_transformers,
    "onnxscript": onnxscript_optimize,
    "onnxscript-ort": onnxscript_ort,
    "optimum-o2": optimum_o2,
}
OURS = ("graphwright", "graphwright-ort", "graphwright-fewest")
NEEDS_CONFIG = ("ort-transformers", "optimum-o2")

if __name__ == "__main__":
    call = TOOLS[sys.argv[1]]()
    started, started_cpu = time.perf_counter(), time.process_time()
    call(Path(sys.argv[2]), Path(sys.argv[3]))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    print("\n" + json.dumps({"call_s": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb()}))
