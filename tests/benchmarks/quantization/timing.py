"""Time artifacts in turn: `python timing.py RUNTIME SECONDS FEEDS.npz,FEEDS.npz NAME:HINT:FILE ...`, one line of JSON.

For each input, the seconds a call in each round, by NAME. A round goes over all artifacts in one cyclic order from
another start, backwards in every second round: none ever follows itself, which would find its weights in the caches,
and a drift of the machine's speed falls on all alike. A block is untimed calls, then as many calls for each artifact.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from running import OPEN, Feeds, Run

LEAST_ROUNDS = 6
MOST_ROUNDS = 200
BLOCK_S = 0.05
PAUSE_S = 0.005
"""Before a block: the other sessions' idle threads stop spinning."""


def main(runtime: str, seconds: float, inputs: list[Path], lanes: list[str]) -> dict[str, Any]:
    runs: dict[str, Run] = {}
    failures: dict[str, str] = {}
    times: dict[str, dict[str, list[float]]] = {}
    loaded = [dict(np.load(path)) for path in inputs]
    for lane in lanes:
        name, hint, file = lane.split(":", 2)
        try:
            runs[name] = OPEN[runtime](Path(file), hint)
            for feeds in loaded:
                runs[name](feeds)
        except Exception as error:
            runs.pop(name, None)
            failures[name] = " ".join(str(error).split())[:200]
    for path, feeds in zip(inputs, loaded, strict=True):
        times[path.stem] = rounds(runs, feeds, seconds)
    return {"times": times, "failures": failures}


def rounds(runs: dict[str, Run], feeds: Feeds, seconds: float) -> dict[str, list[float]]:
    names = list(runs)
    calls = {name: calls_per_block(runs[name], feeds) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for turn in range(MOST_ROUNDS):
        if turn >= LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        order = [names[(turn + place) % len(names)] for place in range(len(names))]
        for name in order if turn % 2 == 0 else order[::-1]:
            times[name].append(block_s(runs[name], feeds, calls[name]))
    return times


def calls_per_block(run: Run, feeds: Feeds) -> int:
    started = time.perf_counter()
    run(feeds)
    return max(1, round(BLOCK_S / max(time.perf_counter() - started, 1e-6)))


def block_s(run: Run, feeds: Feeds, calls: int) -> float:
    time.sleep(PAUSE_S)
    run(feeds)
    started = time.perf_counter()
    for _ in range(calls):
        run(feeds)
    return (time.perf_counter() - started) / calls


if __name__ == "__main__":
    files = [Path(text) for text in sys.argv[3].split(",")]
    print("\n" + json.dumps(main(sys.argv[1], float(sys.argv[2]), files, sys.argv[4:])))
