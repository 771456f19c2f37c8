"""Time ONNX files in turn in one process: `python latency.py RUNTIME SAMPLE.npz BATCH LENGTH ROUNDS FILE FILE ...`.

Prints one line of JSON: per file the seconds a call in each round's two blocks, {"first": [...], "second": [...]}, or
why a file does not run. A round goes over the files twice, each time in the same cyclic order from another start, and
backwards in every second round: no file ever follows itself, which would find its weights in the caches, and a drift of
the machine's speed falls on all alike. A block is untimed calls, then as many calls for each file. RUNTIME: onnxruntime
(its default optimizations) or openvino (fp32). Two threads. Inputs are the sample's, repeated to BATCH, and along named
axes to LENGTH.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2
BLOCK_S = 0.15
WARM_CALLS = 2
PAUSE_S = 0.005
"""Before a block: the other session's idle threads stop spinning."""

Run = Callable[[], object]
SPATIAL_STEPS = 16
"""Heights and widths are at most LENGTH, and multiples of this."""


def main(runtime: str, sample: Path, batch: int, length: int, rounds: int, files: list[Path]) -> dict[str, Any]:
    runs: list[Run] = []
    for file in files:
        try:
            run = OPEN[runtime](file, feeds_of(file, sample, batch, length))
            run()
        except Exception as error:
            return {"failure": f"{file.parent.name}/{file.name}: {' '.join(str(error).split())[:200]}"}
        runs.append(run)
    calls = max(calls_per_block(run) for run in runs)
    result = [{"first": [], "second": []} for _ in runs]
    for turn in range(rounds):
        order = [(turn + place) % len(runs) for place in range(len(runs))]
        for half in ("first", "second"):
            for index in order if turn % 2 == 0 else order[::-1]:
                result[index][half].append(block_s(runs[index], calls))
    return {"files": result}


def feeds_of(file: Path, sample: Path, batch: int, length: int) -> dict[str, Any]:
    """Return the file's inputs: the sample's arrays, repeated or cut along the axes that the graph names."""
    import numpy as np
    import onnx

    stored = np.load(sample)
    graph = onnx.load(file, load_external_data=False).graph
    feeds = {}
    for entry in graph.input:
        array = stored[f"in:{entry.name}"]
        for axis, dimension in enumerate(entry.type.tensor_type.shape.dim):
            name = dimension.dim_param
            if name:
                size = batch if name == "batch" else length
                if "height" in name or "width" in name:
                    size = max(length // SPATIAL_STEPS, 1) * SPATIAL_STEPS
                array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
        feeds[entry.name] = np.ascontiguousarray(array)
    return feeds


def open_onnxruntime(file: Path, feeds: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def open_openvino(file: Path, feeds: dict[str, Any]) -> Run:
    from targets.openvino.runtime import the_core

    settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = the_core().compile_model(str(file), "CPU", settings).create_infer_request()
    return lambda: request.infer(feeds)


OPEN: dict[str, Callable[[Path, dict[str, Any]], Run]] = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def calls_per_block(run: Run) -> int:
    started = time.perf_counter()
    run()
    return max(1, round(BLOCK_S / max(time.perf_counter() - started, 1e-6)))


def block_s(run: Run, calls: int) -> float:
    time.sleep(PAUSE_S)
    for _ in range(WARM_CALLS):
        run()
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[3:6]]
    report = main(sys.argv[1], Path(sys.argv[2]), *numbers, [Path(file) for file in sys.argv[6:]])
    print("\n" + json.dumps(report))
