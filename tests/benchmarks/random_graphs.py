"""Rewrites random graphs by the default pipeline, by ONNX Runtime's and by each pass alone, and looks for faults.

By hand: python FILE [--count 10000] [--start 0] [--passes 3] [--out FOLDER]. A graph is drawn from its seed, so
`--start SEED --count 1` replays one. Each must keep its outputs at three sizes (ONNX Runtime, its optimizations off, or
onnx's reference evaluator), stay legal, be a fixed point, and give the same bytes twice. Faults are cut down to a
few nodes and saved under --out.
"""

from __future__ import annotations

import argparse
import collections
import logging
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    import onnx

    from tests.support.random_graphs import feeds_of, random_model
    from tests.support.rewrite_proof import problems, reduced, single_passes, whole_pipelines
    from tests.support.running import CannotRun

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--passes", type=int, default=3, help="how many passes to try alone on each graph; -1 for all")
    parser.add_argument("--only", action="append", help="only these pipelines, by name")
    parser.add_argument("--out", type=Path, help="folder for the graphs that fail, cut down")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    logging.disable(logging.WARNING)
    whole, single = whole_pipelines(), single_passes()
    counts: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    started = time.perf_counter()
    for seed in range(arguments.start, arguments.start + arguments.count):
        source = random.Random(seed)
        model = random_model(source)
        number = len(single) if arguments.passes < 0 else arguments.passes
        tried = whole | {name: single[name] for name in source.sample(sorted(single), min(number, len(single)))}
        if arguments.only:
            tried = {name: value for name, value in (whole | single).items() if name in arguments.only}
        feeds, jittered = feeds_of(model), feeds_of(model, jitter=1e-6)
        counts["graphs"] += 1
        try:
            onnx.checker.check_model(model)
            found = problems(model, feeds, jittered, tried)
        except (CannotRun, onnx.checker.ValidationError) as error:
            counts["not run"] += 1
            print(f"seed {seed}: not run: {str(error)[:400]}", flush=True)
            continue
        for problem in found:
            counts[problem.kind] += 1
            print(f"seed {seed} {problem}", flush=True)
            key = (problem.pipeline, problem.kind)
            seen[key] += 1
            if arguments.out and seen[key] <= 5:
                one = {problem.pipeline: tried[problem.pipeline]}

                def is_bad(candidate: onnx.ModelProto, one=one, kind=problem.kind) -> bool:  # type: ignore[no-untyped-def]
                    data, moved = feeds_of(candidate), feeds_of(candidate, jitter=1e-6)
                    return any(p.kind == kind for p in problems(candidate, data, moved, one))

                small = reduced(model, is_bad)
                arguments.out.mkdir(parents=True, exist_ok=True)
                name = f"{problem.pipeline}-{problem.kind.replace(' ', '-')}-{seed}"
                onnx.save(small, arguments.out / f"{name}.onnx")
                (arguments.out / f"{name}.txt").write_text(f"{problem}\n{onnx.printer.to_text(small)}\n")
    seconds = time.perf_counter() - started
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()) + f" in {seconds:.0f} s")
    sys.exit(any(count for kind, count in counts.items() if kind not in ("graphs", "not run")))


if __name__ == "__main__":
    main()
