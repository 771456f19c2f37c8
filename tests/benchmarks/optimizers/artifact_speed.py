"""Latency of optimized graphs against untouched ones, in ONNX Runtime and OpenVINO, interleaved.

python tests/benchmarks/optimizers/artifact_speed.py ZOO OUT.jsonl [--graphs A B] [--rounds 6] [--processes 3]
    [--sizes 1x64 8x64] [--runtimes onnxruntime openvino] [--resume]

Per graph, runtime and size: the untouched file twice (A and A', the noise floor), the default pipeline's result and
that of `--target RUNTIME`; rounds in turn (see latency.py) in each of several processes, since a process keeps the luck
of its memory layout. A ratio is A's time over the candidate's in one round: above 1 the candidate is faster. Printed is
the median with its 95% bootstrap interval, which resamples processes, then rounds in them. "faster" and "slower" are
said where the interval lies beyond 1 and beyond the interval of A over A' as well; everything else is a tie.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import HERE, child, finished_keys, wanted

RESAMPLES = 2000
NAMES = ("again", "default", "target")
Ratios = list[list[float]]  # by process, then by round


def main() -> None:
    arguments = parsed()
    done = finished_keys(arguments.out, ("graph", "runtime", "size")) if arguments.resume else set()
    print("| graph | runtime | size | ms | A / A' | default pipeline | with --target |\n" + "|---" * 7 + "|")
    for source in sorted(arguments.zoo.glob("*-*.onnx")):
        if wanted(source.stem, arguments.graphs):
            for runtime in arguments.runtimes:
                with tempfile.TemporaryDirectory(dir=arguments.out.parent, prefix=".speed") as folder:
                    one_graph(source, runtime, Path(folder), arguments, done)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--graphs", nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["1x64", "8x64"])
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--resume", action="store_true", help="skip what OUT.jsonl already holds")
    return parser.parse_args()


def one_graph(source: Path, runtime: str, folder: Path, arguments: argparse.Namespace, done: set[Any]) -> None:
    sizes = [size for size in arguments.sizes if (source.stem, runtime, size) not in done]
    forms = {"default": [], "target": ["--target", runtime]}
    files = [source]
    failure = ""
    for name, options in forms.items() if sizes else ():
        files.append(folder / name / source.name)
        code = "import sys; from exporter.cli import main; main(sys.argv[1:])"
        command = ["optimize", str(source), "-o", str(files[-1]), *options, "--json"]
        _, stopped = child([sys.executable, "-c", code, *command], last_line=False)
        failure = failure or (f"optimize {name}: {stopped}" if stopped else "")
    for size in sizes:
        row = {"graph": source.stem, "runtime": runtime, "size": size, "failure": failure}
        if not failure:
            row |= measured(source, runtime, size, [files[0], *files[1:], files[0]], arguments)
        with arguments.out.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print_row(row)


def measured(source: Path, runtime: str, size: str, files: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios of A to each candidate, by process and round, and A's milliseconds."""
    sample = source.with_suffix("") / "untraced2.npz"
    batch, length = size.split("x")
    ratios: dict[str, Ratios] = {name: [] for name in NAMES}
    milliseconds = []
    for _ in range(arguments.processes):
        command = [sys.executable, str(HERE / "latency.py"), runtime, str(sample), batch, length]
        report, stopped = child([*command, str(arguments.rounds), *(str(file) for file in files)], longest_s=1800)
        if stopped or "failure" in report:
            return {"failure": stopped or report["failure"]}
        baseline, default, target, again = [
            [first + second for first, second in zip(file["first"], file["second"], strict=True)]
            for file in report["files"]
        ]
        milliseconds += [500 * total for total in baseline]
        for name, candidate in (("default", default), ("target", target), ("again", again)):
            ratios[name].append([ours / theirs for ours, theirs in zip(baseline, candidate, strict=True)])
    return {"ratios": ratios, "ms": statistics.median(milliseconds)}


def interval(ratios: Ratios) -> tuple[float, float, float]:
    """Return the median ratio and its 95% bootstrap interval."""
    chance = random.Random(0)
    medians = sorted(
        statistics.median(
            [
                ratio
                for process in chance.choices(ratios, k=len(ratios))
                for ratio in chance.choices(process, k=len(process))
            ]
        )
        for _ in range(RESAMPLES)
    )
    everything = [ratio for process in ratios for ratio in process]
    return statistics.median(everything), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def print_row(row: dict[str, Any]) -> None:
    if row["failure"]:
        cells = ["–", "–", row["failure"].replace("|", "/"), ""]
    else:
        noise = interval(row["ratios"]["again"])
        cells = [f"{row['ms']:.2f}", text(noise), *(verdict(row["ratios"][name], noise) for name in NAMES[1:])]
    print(f"| {row['graph']} | {row['runtime']} | {row['size']} | " + " | ".join(cells) + " |", flush=True)


def verdict(ratios: Ratios, noise: tuple[float, float, float]) -> str:
    found = interval(ratios)
    if found[1] > max(noise[2], 1.0):
        return f"{text(found)} faster"
    if found[2] < min(noise[1], 1.0):
        return f"{text(found)} **slower**"
    return text(found)


def text(figures: tuple[float, float, float]) -> str:
    return f"{figures[0]:.2f} [{figures[1]:.2f}, {figures[2]:.2f}]"


if __name__ == "__main__":
    main()
