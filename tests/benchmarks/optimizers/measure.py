"""Run every optimizer on every graph of the zoo: seconds, memory, nodes, and whether the result is right.

python tests/benchmarks/optimizers/measure.py ZOO OUT.jsonl [--runs 3] [--graphs A B] [--tools X Y]
    [--python PEERS_PYTHON] [--optimum-python OPTIMUM_PYTHON]

Every run is a fresh process; rounds go over all tools before the next begins, each round starting at another tool.
This process stays small and imports nothing heavy. A line of OUT.jsonl is one tool on one graph. table.py prints it.
Results are written to a folder next to OUT.jsonl and removed again: let it be on the zoo's file system.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import NEEDS_CONFIG, OURS, TOOLS

HERE = Path(__file__).resolve().parent
LONGEST_S = 120
LARGE = ("llama1b",)
"""Measured where it is named only."""

APART = "optimum-o2"  # needs an older transformers, so an environment of its own


def main() -> None:
    arguments = parsed()
    graphs = [path for path in sorted(arguments.zoo.glob("*-*.onnx")) if wanted(path.stem, arguments.graphs)]
    done = finished_keys(arguments.out, ("graph", "tool")) if arguments.resume else set()
    for source in graphs:
        tools = [tool for tool in arguments.tools if (source.stem, tool) not in done]
        tools = [
            tool for tool in tools if tool not in NEEDS_CONFIG or (source.with_suffix("") / "config.json").exists()
        ]
        rows: dict[str, dict[str, Any]] = {tool: new_row(source.stem, tool) for tool in tools}
        for turn in range(arguments.runs):
            shift = turn * max(len(tools) // arguments.runs, 1) % max(len(tools), 1)
            for tool in tools[shift:] + tools[:shift]:
                if not rows[tool]["failure"]:
                    one_run(source, tool, rows[tool], arguments)
        with arguments.out.open("a") as lines:
            for row in rows.values():
                lines.write(json.dumps(row) + "\n")
        print(source.stem, {tool: row.get("nodes", row["failure"]) for tool, row in rows.items()}, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--graphs", nargs="+", default=[])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--optimum-python", default=sys.executable)
    parser.add_argument("--longest-s", type=float, default=LONGEST_S, help="a run that takes longer has failed")
    parser.add_argument(
        "--times-only", action="store_true", help="check no result: table.py joins such lines to others"
    )
    parser.add_argument("--resume", action="store_true", help="skip what OUT.jsonl already holds")
    return parser.parse_args()


def wanted(graph: str, names: list[str]) -> bool:
    name = graph.rpartition("-")[0]
    return graph in names or name in names or (not names and name not in LARGE)


def finished_keys(out: Path, fields: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return which combinations of `fields` the lines of `out` already hold."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return {tuple(row[field] for field in fields) for row in rows}


def new_row(graph: str, tool: str) -> dict[str, Any]:
    return {"graph": graph, "tool": tool, "wall_s": [], "call_s": [], "cpu_s": [], "peak_mb": [], "failure": ""}


def one_run(source: Path, tool: str, row: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Run `tool` once and note what it took; the first result is also checked, and ours is optimized again."""
    python = {APART: arguments.optimum_python}.get(tool, sys.executable if tool in OURS else arguments.python)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent, prefix=".measure") as folder:
        out = Path(folder) / source.name
        started = time.perf_counter()
        report, failure = child(
            [python, str(HERE / "peers.py"), tool, str(source), str(out)], longest_s=arguments.longest_s
        )
        wall_s = time.perf_counter() - started
        if failure or not out.exists():
            row["failure"] = failure or "no file was written"
            return
        row["wall_s"].append(round(wall_s, 3))
        row["call_s"].append(round(report["call_s"], 3))
        row["cpu_s"].append(round(report["cpu_s"], 3))
        row["peak_mb"].append(round(report["peak_mb"], 1))
        if arguments.times_only:
            return
        is_first = "nodes" not in row
        if is_first:
            command = [sys.executable, str(HERE / "check.py"), str(out), str(source.with_suffix(""))]
            checked, failure = child(command, longest_s=2 * arguments.longest_s)
            row |= checked or {"nodes": None, "load": failure}
            row["megabytes"] = round(sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6, 1)
        if tool in OURS:
            found = digest(Path(folder))
            if is_first:
                row["digest"] = found
                row["fixed_point"] = again(python, tool, out, arguments.longest_s)
            row["same_bytes"] = row.get("same_bytes", True) and row["digest"] == found


def again(python: str, tool: str, out: Path, longest_s: float) -> str:
    """Optimize the result `out` again: "yes" where no byte changed."""
    second = out.parent / "second"
    second.mkdir()
    before = digest(out.parent)
    command = [python, str(HERE / "peers.py"), tool, str(out), str(second / out.name)]
    _, failure = child(command, longest_s=longest_s)
    verdict = failure or ("yes" if digest(second) == before else "bytes differ")
    shutil.rmtree(second)
    return verdict


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        total.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def child(command: list[str], *, longest_s: float = LONGEST_S, last_line: bool = True) -> tuple[dict[str, Any], str]:
    """Return the last line of JSON that the process printed, if one is asked for, and why there is none."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[2])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=longest_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {}, f"more than {longest_s} s"
    lines = [line for line in text.splitlines() if line.strip()]
    if process.returncode < 0:
        return {}, f"killed by {signal.Signals(-process.returncode).name}"
    is_json = bool(lines) and lines[-1].startswith("{")
    if process.returncode or (last_line and not is_json):
        return {}, " / ".join(lines[-2:] or ["no output"])[-300:]
    return json.loads(lines[-1]) if last_line else {}, ""


if __name__ == "__main__":
    main()
