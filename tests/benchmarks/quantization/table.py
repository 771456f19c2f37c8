"""What peers.py measured, as Markdown, and how graphwright's artifacts stand against the bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from recipes import ONNXRUNTIME, OPENVINO, RECIPES

LEAST_MARGIN_DB = 3.0
LEAST_SPEED = 0.97
USABLE_DB = 10.0
"""A peer under this is no int8 artifact that speed is compared with."""

LEAST_DB = 18.0
RESAMPLES = 2000
Row = dict[str, Any]
Times = dict[str, dict[str, list[float]]]


def print_tables(models: Sequence[str], made: Sequence[Row], scored: Sequence[Row], timed: Sequence[Row]) -> None:
    times = {(row["model"], row["runtime"]): row.get("times", {}) for row in timed}
    for model in models:
        print(f"\n### {model}\n")
        print_model(model, made, scored, times)
    print("\n### Against the bars\n")
    print_bars(models, scored, times)


def print_model(model: str, made: Sequence[Row], scored: Sequence[Row], times: dict[tuple[str, str], Times]) -> None:
    titles = ["artifact", "runtime", "SQNR dB", "agreement", "accuracy", "b1 ms", "b8 ms", "build s", "peak MB", ""]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    costs = {row["recipe"]: row for row in made if row["model"] == model}
    ours = [row for row in scored if row["model"] == model]
    for row in sorted(ours, key=lambda row: (row["runtime"], list(RECIPES).index(row["recipe"]), row["hint"])):
        cost = costs.get(row["recipe"], {})
        found = times.get((model, row["runtime"]), {})
        cells = [row["recipe"], f"{row['runtime']} {row['hint']}".strip()]
        cells += [number(row.get(key), form) for key, form in (("sqnr_db", ".1f"), ("agreement", ".4f"))]
        cells += [number(row.get("accuracy"), ".4f")]
        cells += [milliseconds(found.get(f"timing-{batch}", {}).get(lane(row))) for batch in (1, 8)]
        cells += [number(cost.get("seconds"), ".0f"), number(cost.get("peak_mb"), ".0f")]
        print("| " + " | ".join([*cells, remark(row, cost)]) + " |")
    for recipe, cost in costs.items():
        if cost["failure"]:
            print(f"| {recipe} |" + " – |" * 8 + f" **fails**: {cost['failure'].replace('|', '/')} |")


def remark(row: Row, cost: Row) -> str:
    parts = [f"**fails**: {row['failure']}"] if row["failure"] else []
    if cost.get("before"):
        parts.append("fails on " + "; ".join(cost["before"]) + f"; made from {cost['source']}")
    return "; ".join(parts).replace("|", "/")


def print_bars(models: Sequence[str], scored: Sequence[Row], times: dict[tuple[str, str], Times]) -> None:
    titles = ["model", "artifact", "dB", "best peer here", "best peer anywhere", "b1 against", "b8 against", "misses"]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for model in models:
        rows = [row for row in scored if row["model"] == model and not row["failure"]]
        peers = [row for row in rows if RECIPES[row["recipe"]].is_peer]
        for runtime in (ONNXRUNTIME, OPENVINO):
            for row in rows:
                if row["runtime"] == runtime and row["recipe"].startswith("graphwright"):
                    print("| " + " | ".join(against_bars(row, peers, times.get((model, runtime), {}))) + " |")


def against_bars(row: Row, peers: Sequence[Row], times: Times) -> list[str]:
    here = [peer for peer in peers if peer["runtime"] == row["runtime"]]
    best = max(peers, key=lambda peer: peer["sqnr_db"], default=None)
    best_here = max(here, key=lambda peer: peer["sqnr_db"], default=None)
    misses = [] if row["sqnr_db"] >= LEAST_DB else [f"under {LEAST_DB:.0f} dB"]
    if best is not None and row["sqnr_db"] < best["sqnr_db"] + LEAST_MARGIN_DB:
        misses.append(f"{row['sqnr_db'] - best['sqnr_db']:+.1f} dB of the best peer")
    cells = [row["model"], row["recipe"], f"{row['sqnr_db']:.1f}", *map(named, (best_here, best))]
    for batch in (1, 8):
        text, ratio = speed(row, here, times.get(f"timing-{batch}", {}))
        cells.append(text)
        if ratio is None:
            misses.append(f"b{batch} not timed")
        elif ratio < LEAST_SPEED:
            misses.append(f"b{batch} speed {ratio:.2f}")
    return [*cells, "; ".join(misses)]


def speed(row: Row, peers: Iterable[Row], times: dict[str, list[float]]) -> tuple[str, float | None]:
    """Return our speed over the fastest usable peer's, in words and as a number; 1.0 where there is no such peer."""
    if lane(row) not in times:
        return "–", None
    usable = [lane(peer) for peer in peers if peer["sqnr_db"] >= USABLE_DB and lane(peer) in times]
    if not usable:
        return "no usable peer", 1.0
    fastest = min(usable, key=lambda name: float(np.median(times[name])))
    ratios = np.array(times[fastest]) / np.array(times[lane(row)])
    middle, low, high = median_with_interval(ratios)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}] {fastest}", middle


def lane(row: Row) -> str:
    return f"{row['recipe']}{'@' if row['hint'] else ''}{row['hint']}"


def named(row: Row | None) -> str:
    return "none" if row is None else f"{row['sqnr_db']:.1f} {lane(row)}"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def milliseconds(times: list[float] | None) -> str:
    if not times:
        return "–"
    middle, low, high = (1000 * value for value in median_with_interval(np.array(times)))
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def median_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median and its 95% percentile bootstrap interval (Efron, 1979), resampled over rounds, seeded."""
    chosen = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(values[chosen], axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(np.median(values)), float(low), float(high)
