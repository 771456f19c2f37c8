"""Time and peak memory of calibration, next to ONNX Runtime's own min-max calibrator on the same samples.

    python tests/benchmarks/quantization/calibration.py minilm=minilm.onnx=samples/ resnet50=resnet50.onnx=more.npz \\
        --count 512 --methods mse,minmax --rounds 3 --json out.jsonl

Each model is NAME=MODEL.onnx=SAMPLES, where SAMPLES is an .npz file or a folder of them; they are repeated until there
are --count. Each measurement runs in a fresh process, the tools in turn, and takes the time from opening the model file
to having all ranges (imports apart). graphwright calibrates the graph that its default pipeline makes of the file; that
pipeline's time is in the table too. ONNX Runtime calibrates the file as it is, and graphwright's optimized graph too.
The bar: the time of ONNX Runtime on the exported file, and the model's size + 500 MB at the peak of the whole process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

Feeds = dict[str, np.ndarray]

RIVALS = ("ort-minmax", "ort-minmax-optimized")
ALLOWED_MB = 500


def samples_of(place: Path, count: int) -> Iterator[Feeds]:
    """Yield `count` samples from the files at `place`, over and over, each read when it is asked for."""
    files = sorted(place.glob("*.npz")) if place.is_dir() else [place]
    for file in itertools.islice(itertools.cycle(files), count):
        with np.load(file) as archive:
            yield {name: archive[name] for name in archive.files}


def graphwright_run(method: str, threads: int) -> Callable[[Path, Path, int], None]:
    """Return the calibration of an optimized model file."""
    from passes.quantize.calibrate import calibrate
    from passes.serialization import load_model

    def run(model: Path, place: Path, count: int) -> None:
        ranges = calibrate(load_model(model), samples_of(place, count), method=method, threads=threads)
        assert ranges.samples == count
        assert len(ranges) > 0

    return run


def onnxruntime_run(threads: int) -> Callable[[Path, Path, int], None]:
    """Return ONNX Runtime's min-max calibration of a model file, as its documentation calls it."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    class Reader:
        def __init__(self, samples: Iterator[Feeds]) -> None:
            self.samples = samples

        def get_next(self) -> Feeds | None:
            return next(self.samples, None)

    def run(model: Path, place: Path, count: int) -> None:
        is_large = size_bytes(model) > 1 << 31
        with tempfile.TemporaryDirectory() as folder:
            calibrator = create_calibrator(
                str(model),
                augmented_model_path=f"{folder}/augmented.onnx",
                calibrate_method=CalibrationMethod.MinMax,
                use_external_data_format=is_large,
            )
            calibrator.collect_data(Reader(samples_of(place, count)))
            assert calibrator.compute_data().data

    return run


def size_bytes(model: Path) -> int:
    """Return the size of a model file and of the weights next to it."""
    return sum(file.stat().st_size for file in (model, *model.parent.glob(f"{model.name}.data*")))


def optimize(model: Path, out: Path) -> None:
    """Write the graph that graphwright's default pipeline makes of `model`."""
    from passes.catalogue import default_pipeline
    from passes.serialization import load_model, save_model

    optimized, _ = default_pipeline().run(load_model(model))
    save_model(optimized, out)


def child(tool: str, model: Path, place: Path, count: int, threads: int) -> None:
    """Measure one calibration in this process, and print what it took as JSON."""
    if tool == "optimize":
        run: Callable[[Path, Path, int], None] = lambda source, out, _: optimize(source, out)  # noqa: E731
    else:
        run = onnxruntime_run(threads) if tool in RIVALS else graphwright_run(tool, threads)
    started, cpu_started = time.perf_counter(), time.process_time()
    run(model, place, count)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    status = Path("/proc/self/status").read_text()  # getrusage counts what the parent held before it started this one
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb}))


def measured(tool: str, model: Path, place: Path, count: int, threads: int) -> dict[str, float]:
    """Return what one calibration took in a process of its own."""
    command = [sys.executable, __file__, "--child", tool, str(model), str(place), str(count), str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        print(f"{tool} on {model.name} failed: {last[0]}", file=sys.stderr)
        return {"seconds": float("nan"), "cpu_seconds": float("nan"), "peak_mb": float("nan")}
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(rows: list[dict[str, object]]) -> str:
    """Return the medians as a markdown table."""
    lines = [
        "| model | tool | seconds | of ONNX Runtime's | processor seconds | peak MB | model + MB | within both bars |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault((str(row["model"]), str(row["tool"])), []).append(row)
    for (model, tool), found in groups.items():
        seconds, cpu, peak = (
            median(float(str(row[key])) for row in found) for key in ("seconds", "cpu_seconds", "peak_mb")
        )
        reference = groups.get((model, "ort-minmax"))
        share = seconds / median(float(str(row["seconds"])) for row in reference) if reference else float("nan")
        above = peak - float(str(found[0]["model_mb"]))
        verdict = "" if tool in RIVALS or tool == "optimize" else "yes" if share <= 1 and above <= ALLOWED_MB else "no"
        lines.append(
            f"| {model} | {tool} | {seconds:.1f} | {share:.2f} | {cpu:.1f} | {peak:.0f} | {above:.0f} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL.onnx=SAMPLES")
    parser.add_argument("--count", type=int, default=512, help="calibration samples")
    parser.add_argument("--methods", default="mse", help="graphwright's range methods, with commas, or all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-rivals", action="store_true", help="measure graphwright only")
    parser.add_argument("--json", type=Path, help="append each measurement to this file, one a line")
    arguments = parser.parse_args()
    from passes.quantize.range_methods import RANGE_METHODS

    methods = RANGE_METHODS if arguments.methods == "all" else tuple(arguments.methods.split(","))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = [text.split("=") for text in arguments.models]
        for _, (name, model, place) in itertools.product(range(arguments.rounds), models):
            exported, optimized = Path(model), Path(folder) / f"{name}.onnx"
            plan: list[tuple[str, Path, Path]] = []
            if not optimized.exists():
                plan.append(("optimize", exported, optimized))
            plan += [] if arguments.no_rivals else [("ort-minmax", exported, Path(place))]
            plan += [(method, optimized, Path(place)) for method in methods]
            plan += [] if arguments.no_rivals else [("ort-minmax-optimized", optimized, Path(place))]
            for tool, source, samples in plan:
                found = measured(tool, source, samples, arguments.count, arguments.threads)
                rows.append({"model": name, "tool": tool, **found, "model_mb": size_bytes(exported) / 1e6})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if arguments.json:
                    with arguments.json.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
