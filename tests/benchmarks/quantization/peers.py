"""int8 by graphwright and by its peers on eight models: accuracy on held out samples, speed, and what making it costs.

    python tests/benchmarks/quantization/peers.py OUT --stage make     (hours on a slow or busy machine; may be)
    python tests/benchmarks/quantization/peers.py OUT --stage score    (some minutes; the machine may be busy)
    python tests/benchmarks/quantization/peers.py OUT --stage time     (about 15 minutes on an idle machine)
    python tests/benchmarks/quantization/peers.py OUT --stage table    (prints Markdown)

Needs nncf and scikit-learn besides graphwright's extras `demo` and `openvino`; optimum-intel has an environment of its
own, named by --optimum-python, and is left out without one. Every artifact is made in a process of its own, of one ONNX
file and the same calibration samples; a tool that fails on the file of PyTorch's newer exporter gets that of the older.
Artifacts stay in OUT/MODEL/artifacts; a line of OUT/made.jsonl, scored.jsonl and timed.jsonl is one measurement.
--resume skips what is there; without it, what is made, scored or timed again replaces the older line. Failures stay:
delete their lines to try again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from models import BATCHES, MODELS
from recipes import ONNXRUNTIME, OPENVINO, RECIPES
from running import child
from table import print_tables

HERE = Path(__file__).resolve().parent
SOURCES = ("dynamo.onnx", "legacy.onnx")
OWN_HINT = "own"
"""OpenVINO's own choice of precision, beside f32; a graphwright artifact's manifest fixes it."""

Row = dict[str, Any]


def main() -> None:
    arguments = parsed()
    arguments.out.mkdir(parents=True, exist_ok=True)
    STAGES[arguments.stage](arguments)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", required=True, choices=list(STAGES))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--weights", type=Path, help="folder of the networks trained here  [default: OUT/weights]")
    parser.add_argument("--optimum-python", default="")
    parser.add_argument("--longest-s", type=float, default=560, help="an artifact that takes longer has failed")
    parser.add_argument("--most-mb", type=float, default=10_000, help="an artifact that takes more memory has failed")
    parser.add_argument("--seconds", type=float, default=22, help="of timing, for each model, runtime and batch")
    parser.add_argument("--least-db", type=float, default=10, help="artifacts under this are not timed")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def make(arguments: argparse.Namespace) -> None:
    log = Log(arguments.out / "made.jsonl", ("model", "recipe"), arguments.resume)
    for model in arguments.models:
        folder = arguments.out / model
        if not (folder / "about.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            weights = arguments.weights or arguments.out / "weights"
            command = [str(HERE / "models.py"), str(arguments.out.resolve()), model, str(weights.resolve())]
            _, failure, _ = run(sys.executable, command, arguments, folder, needs_result=False)
            if failure:
                print(f"{model} cannot be exported: {failure}", flush=True)
                continue
        about = json.loads((folder / "about.json").read_text())
        for name in arguments.recipes:
            recipe = RECIPES[name]
            if (recipe.needs and not about[recipe.needs]) or log.has(model=model, recipe=name):
                continue
            if name == "optimum-intel" and not arguments.optimum_python:
                continue
            row = made(name, folder.resolve(), arguments)
            log.add({"model": model, "recipe": name, **row})


def made(name: str, folder: Path, arguments: argparse.Namespace) -> Row:
    """Return how the artifact was made: from the first exporter's file, or from the second's where that fails."""
    failures: list[str] = []
    python = arguments.optimum_python if name == "optimum-intel" else sys.executable
    for source in SOURCES if RECIPES[name].is_peer else SOURCES[:1]:
        out = folder / "artifacts" / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [str(HERE / "recipes.py"), name, str(folder), str(folder / source), str(out)]
        report, failure, peak = run(python, command, arguments, out)
        if not failure:
            facts = {"seconds": round(report["call_s"], 2), "peak_mb": round(peak), "source": source}
            return {"file": str(out / report["file"]), **facts, "failure": "", "before": failures}
        failures.append(f"{source}: {failure} ({peak:.0f} MB)")
        if "took more than" in failure or "not finished" in failure:
            break
    return {"failure": "; ".join(failures)}


def score(arguments: argparse.Namespace) -> None:
    log = Log(arguments.out / "scored.jsonl", ("model", "runtime", "recipe", "hint"), arguments.resume)
    for row in made_rows(arguments):
        for runtime, hint in lanes_of(row):
            key = {"model": row["model"], "runtime": runtime, "recipe": row["recipe"], "hint": hint}
            if log.has(**key):
                continue
            folder = (arguments.out / row["model"]).resolve()
            flag = {OWN_HINT: "-"}.get(hint, hint or "-")
            command = [str(HERE / "scoring.py"), runtime, flag, row["file"], str(folder)]
            report, failure, _ = run(sys.executable, command, arguments, folder)
            log.add(key | report | {"failure": failure or report.get("failure", "")})


def lanes_of(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the runtimes that the artifact runs on, in OpenVINO at f32 and, if nothing fixes it, at its own choice."""
    recipe = RECIPES[row["recipe"]]
    for runtime in recipe.runtimes:
        if runtime == ONNXRUNTIME:
            yield runtime, ""
        elif recipe.is_peer or row["recipe"] == "fp32":
            yield from ((OPENVINO, "f32"), (OPENVINO, OWN_HINT))
        else:
            yield OPENVINO, ""


def measure(arguments: argparse.Namespace) -> None:
    """Time, model by model and runtime by runtime, all that scored at least `least_db`."""
    log = Log(arguments.out / "timed.jsonl", ("model", "runtime"), arguments.resume)
    files = {(row["model"], row["recipe"]): row["file"] for row in made_rows(arguments)}
    scored = Log(arguments.out / "scored.jsonl", ("model", "runtime", "recipe", "hint"), True).rows.values()
    for model in arguments.models:
        for runtime in (ONNXRUNTIME, OPENVINO):
            if log.has(model=model, runtime=runtime):
                continue
            lanes = [
                f"{row['recipe']}{'@' if row['hint'] else ''}{row['hint']}:{row['hint'].replace(OWN_HINT, '')}:{file}"
                for row in scored
                if (row["model"], row["runtime"]) == (model, runtime)
                and not row["failure"]
                and row["sqnr_db"] >= arguments.least_db
                and (file := files.get((model, row["recipe"])))
            ]
            folder = (arguments.out / model).resolve()
            inputs = ",".join(str(folder / f"timing-{batch}.npz") for batch in BATCHES)
            command = [str(HERE / "timing.py"), runtime, str(arguments.seconds), inputs, *lanes]
            report, failure, _ = run(sys.executable, command, arguments, folder)
            log.add({"model": model, "runtime": runtime, **report, "failure": failure})


def made_rows(arguments: argparse.Namespace) -> Iterable[Row]:
    rows = Log(arguments.out / "made.jsonl", ("model", "recipe"), True).rows.values()
    asked = [row for row in rows if row["model"] in arguments.models and row["recipe"] in arguments.recipes]
    return [row for row in asked if not row["failure"]]


def table(arguments: argparse.Namespace) -> None:
    found = []
    for name, key in (("made", ("model", "recipe")), ("scored", ("model", "runtime", "recipe", "hint"))):
        found.append(list(Log(arguments.out / f"{name}.jsonl", key, True).rows.values()))
    timed = Log(arguments.out / "timed.jsonl", ("model", "runtime"), True).rows.values()
    print_tables(arguments.models, *found, list(timed))


class Log:
    """The lines of a file by their key; a later line replaces an earlier one."""

    def __init__(self, path: Path, key: tuple[str, ...], keeps: bool) -> None:
        self.path, self.key, self.keeps = path, key, keeps
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: dict[tuple[str, ...], Row] = {self._key_of(row): row for row in map(json.loads, lines)}

    def has(self, **key: str) -> bool:
        return self.keeps and self._key_of(key) in self.rows

    def add(self, row: Row) -> None:
        self.rows[self._key_of(row)] = row
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {key: value for key, value in row.items() if key not in ("times", "file", "outputs")}
        print(json.dumps(shown), flush=True)

    def _key_of(self, row: Row) -> tuple[str, ...]:
        return tuple(row[field] for field in self.key)


def run(
    python: str, command: list[str], arguments: argparse.Namespace, folder: Path, *, needs_result: bool = True
) -> tuple[Row, str, float]:
    limits = {"longest_s": arguments.longest_s, "most_mb": arguments.most_mb}
    return child([python, *command], folder=folder, needs_result=needs_result, **limits)


STAGES = {"make": make, "score": score, "time": measure, "table": table}

if __name__ == "__main__":
    main()
