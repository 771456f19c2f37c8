"""How `graphwright optimize` grows: a model of 1.1 billion parameters, and graphs of 12 and 120 equal layers.

python tests/benchmarks/optimizers/scale.py ZOO [--runs 5] [--only large | depth]

The large model is ZOO/llama1b-dynamo.onnx (`zoo.py ZOO llama1b-dynamo` writes it: 4.4 GB); results lie next to it, so
that input and output are on one file system, and are removed. Bars: 5 s and 300 MB there; the time of the call for
120 layers at most 12 times that for 12. Medians and ranges of fresh processes, one after the other in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measure import HERE, child
from peers import OURS

SHALLOW, DEEP = 12, 120
MOST_TIMES = 12.0
LARGE = "llama1b-dynamo"
LARGE_S, LARGE_MB = 5.0, 300.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=["large", "depth"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.zoo, prefix=".scale") as folder:
        if arguments.only != "large":
            depth(Path(folder), arguments.runs)
        if arguments.only != "depth":
            large(arguments.zoo / f"{LARGE}.onnx", Path(folder), arguments.runs)


def depth(folder: Path, runs: int) -> None:
    files = {}
    for layers in (SHALLOW, DEEP):
        files[layers] = folder / f"deep{layers}.onnx"
        command = f"import onnx, deep; onnx.save(deep.deep_model({layers}), {str(files[layers])!r})"
        _, failure = child(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {command}"], last_line=False
        )
        if failure:
            raise RuntimeError(failure)
    print(f"| form | layers | process s | call s | call CPU s | peak MB |\n{'|---' * 6}|")
    for tool in OURS:
        found = {layers: Times([], [], [], []) for layers in files}
        for _ in range(runs):
            for layers, file in files.items():
                found[layers].add(file, tool, folder / f"out{layers}.onnx")
        for layers, times in found.items():
            print(f"| {tool} | {layers} | {times.cells()} |")
        for label, index in (("call", 1), ("CPU of the call", 2)):
            shallow, deep = (statistics.median(found[layers].rows()[index]) for layers in (SHALLOW, DEEP))
            verdict = "meets" if deep <= MOST_TIMES * shallow else "misses"
            print(f"\n{tool}, {label}: {deep / shallow:.1f} times ({verdict} {MOST_TIMES:.0f})")


def large(source: Path, folder: Path, runs: int) -> None:
    print(f"\n| form | model | process s | call s | call CPU s | peak MB | verdict |\n{'|---' * 7}|")
    for tool in OURS:
        times = Times([], [], [], [])
        for _ in range(runs):
            times.add(source, tool, folder / "large.onnx")
            for file in folder.glob("large.onnx*"):
                file.unlink()
        meets = statistics.median(times.wall_s) <= LARGE_S and max(times.peak_mb) <= LARGE_MB
        print(
            f"| {tool} | {source.stem} | {times.cells()} | {'meets' if meets else 'misses'} 5 s and 300 MB |",
            flush=True,
        )


class Times:
    """What the runs of one tool on one file took."""

    def __init__(self, wall_s: list[float], call_s: list[float], cpu_s: list[float], peak_mb: list[float]) -> None:
        self.wall_s, self.call_s, self.cpu_s, self.peak_mb = wall_s, call_s, cpu_s, peak_mb

    def add(self, source: Path, tool: str, out: Path) -> None:
        started = time.perf_counter()
        report, failure = child([sys.executable, str(HERE / "peers.py"), tool, str(source), str(out)], longest_s=600)
        if failure:
            raise RuntimeError(f"{tool} on {source.name}: {failure}")
        self.wall_s.append(time.perf_counter() - started)
        self.call_s.append(report["call_s"])
        self.cpu_s.append(report["cpu_s"])
        self.peak_mb.append(report["peak_mb"])

    def rows(self) -> tuple[list[float], ...]:
        return self.wall_s, self.call_s, self.cpu_s, self.peak_mb

    def cells(self) -> str:
        return " | ".join(f"{statistics.median(row):.2f} [{min(row):.2f}, {max(row):.2f}]" for row in self.rows())


if __name__ == "__main__":
    main()
