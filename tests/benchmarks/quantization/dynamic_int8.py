"""Dynamic int8 next to onnxruntime.quantization.quantize_dynamic: error, integer operators, and latency.

    python tests/benchmarks/quantization/dynamic_int8.py model.onnx --samples FOLDER [--threads 2] [--rounds 30]

FOLDER holds .npz files of inputs. Errors are SQNR in dB over all outputs and samples, against the fp32 graph on ONNX
Runtime. Latencies are medians over rounds that run every variant in turn on the first sample; take them on an idle
machine. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from exporter.optimization import run_pipeline
from passes.base import Context
from passes.catalogue import default_pipeline
from passes.parse import pipeline_from_text
from passes.serialization import load_model, save_model
from targets.base import BuildOptions
from targets.onnxruntime.executed import INT8_OPERATORS
from targets.registry import get_target

OPTIONS = BuildOptions(precision="int8-dynamic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=0, help="0 times nothing")
    parser.add_argument("--quantize", default="quantize-dynamic", help="the pass, with its options")
    arguments = parser.parse_args()
    samples = [dict(np.load(path)) for path in sorted(arguments.samples.glob("*.npz"))]
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": arguments.model, **variants(arguments.model, Path(folder), arguments.quantize)}
        sessions, failures = {}, {}
        for name, file in files.items():
            try:
                sessions[name] = session(file, Path(folder), name, arguments.threads)
            except Exception as error:  # a peer's file that does not load is a result
                failures[name] = str(error)[:200]
        feeds = [fitting(sample, sessions["fp32"][0]) for sample in samples]
        expected = [sessions["fp32"][0].run(None, feed) for feed in feeds]
        times = latencies({name: one for name, (one, _) in sessions.items()}, feeds[0], arguments.rounds)
        for name, (one, counts) in sessions.items():
            found = [one.run(None, feed) for feed in feeds]
            print(
                json.dumps({"variant": name, "sqnr_db": sqnr_db(expected, found), "int8": counts} | times.get(name, {}))
            )
        for name, reason in failures.items():
            print(json.dumps({"variant": name, "failed": reason}))


def variants(model: Path, folder: Path, quantize: str) -> dict[str, Path]:
    """Return the files of ours and of ONNX Runtime's own, which may fail to be made: such a file is missing then."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = get_target("onnxruntime")
    optimized, _ = run_pipeline("optimize", load_model(model), pipeline=default_pipeline())
    context = Context(capabilities=target.capabilities(OPTIONS))
    quantized, _ = run_pipeline("quantize", optimized, pipeline=pipeline_from_text(quantize), context=context)
    legal, _ = run_pipeline("legalise", quantized, pipeline=target.pipeline(OPTIONS), context=context)
    files = {"graphwright": folder / "ours.onnx", "peer": folder / "peer.onnx", "peer-channel": folder / "channel.onnx"}
    save_model(legal, files["graphwright"])
    for name, per_channel in (("peer", False), ("peer-channel", True)):
        try:
            quantize_dynamic(str(model), str(files[name]), per_channel=per_channel, weight_type=QuantType.QInt8)
        except Exception as error:
            print(json.dumps({"variant": name, "made": False, "reason": str(error)[:200]}))
            del files[name]
    return files


def session(file: Path, folder: Path, name: str, threads: int) -> tuple[Any, dict[str, int]]:
    """Return the session and the count of the operators that run on integers."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / f"{name}-executed.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{name}-executed.data")
    made = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node if node.op_type in INT8_OPERATORS)
    return made, dict(counts)


def fitting(sample: dict[str, np.ndarray], made: Any) -> dict[str, np.ndarray]:
    return {value.name: sample[value.name] for value in made.get_inputs()}


def sqnr_db(expected: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> float:
    signal = error = 0.0
    for wanted, got in zip(expected, found, strict=True):
        for one, other in zip(wanted, got, strict=True):
            signal += float(np.square(one, dtype=np.float64).sum())
            error += float(np.square(one.astype(np.float64) - other).sum())
    return round(10 * float(np.log10(signal / max(error, 1e-300))), 2)


def latencies(sessions: dict[str, Any], feed: dict[str, np.ndarray], rounds: int) -> dict[str, dict[str, float]]:
    """Return the median and least milliseconds of each variant, all run in turn."""
    seen: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, one in sessions.items():
            started = time.perf_counter()
            one.run(None, feed)
            seen[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: {"median_ms": round(statistics.median(each), 3), "least_ms": round(min(each), 3)}
        for name, each in seen.items()
        if each
    }


if __name__ == "__main__":
    main()
