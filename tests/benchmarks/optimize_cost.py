"""Measure `graphwright optimize` on an ONNX file: nodes, wall time and peak memory of a fresh process.

python tests/benchmarks/optimize_cost.py MODEL.onnx [RUNS]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(model: Path, runs: int) -> None:
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            started = time.perf_counter()
            command = [sys.executable, "-m", "exporter", "optimize", str(model), "-o", f"{folder}/out.onnx", "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - started)
    report = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{model.name}: {report['nodes_before']} -> {report['nodes_after']} nodes")
    print(
        f"wall: median {statistics.median(seconds):.2f} s, range {min(seconds):.2f} to {max(seconds):.2f}, {runs} runs"
    )
    print(f"peak memory of the largest process: {peak:.0f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
