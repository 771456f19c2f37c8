"""Print measure.py's lines as Markdown: every tool on every graph, then graphwright against its bars.

python tests/benchmarks/optimizers/table.py OUT.jsonl [--nodes | --summary]
    (--nodes: node counts and verdicts alone; --summary: a line a graph)

Nodes are those of the main graph, of every nested graph and of every function, Constant nodes included. A peer's
result that does not load, or is wrong at any of the three sizes, is no bar for ours. The bars, per graph and form:
nodes at most the best right peer's; time (of the whole process) at most that of the fastest right peer whose nodes are
within 20% of ours; under 2 s; at most 250 MB; right at untraced sizes; a fixed point; equal bytes from equal runs.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from check import RIGHT, SIZES
from peers import OURS, TOOLS

NEAR = 1.2
LONGEST_S = 2.0
MOST_MB = 250.0

Row = dict[str, Any]


def main(path: Path, only_nodes: bool, is_summary: bool) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    graphs: dict[str, dict[str, Row]] = {}
    for row in rows:  # a later line of the same graph and tool replaces what it holds of the earlier
        graphs.setdefault(row["graph"], {}).setdefault(row["tool"], {}).update(row)
    if is_summary:
        print_summary(graphs)
        return
    if not only_nodes:
        print_peers(graphs)
    print_verdicts(graphs, only_nodes)


def is_right(row: Row) -> bool:
    return not row["failure"] and row.get("nodes") is not None and all(row.get(size) == RIGHT for size in SIZES)


def print_peers(graphs: dict[str, dict[str, Row]]) -> None:
    tools = [tool for tool in TOOLS if any(tool in rows for rows in graphs.values())]
    print("Nodes / seconds of the whole process (of the call) / peak MB:\n")
    print("| graph | " + " | ".join(tools) + " |\n" + "|---" * (1 + len(tools)) + "|")
    for graph, rows in graphs.items():
        print(f"| {graph} | " + " | ".join(cell(rows.get(tool)) for tool in tools) + " |")
    print()


def cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["failure"]:
        return "**fails**: " + row["failure"].replace("|", "/")[:60]
    wrong = next((f" **{size}: {row[size]}**"[:80] for size in SIZES if row.get(size) != RIGHT), "")
    wall = f"{statistics.median(row['wall_s']):.2f} [{min(row['wall_s']):.2f}, {max(row['wall_s']):.2f}]"
    call = f"({statistics.median(row['call_s']):.2f})"
    return f"{row['nodes']} / {wall} {call} / {max(row['peak_mb']):.0f}{wrong}".replace("|", "/")


def print_summary(graphs: dict[str, dict[str, Row]]) -> None:
    """Print a line a graph: nodes of each form and of the best peer, then seconds and memory."""
    titles = ["graph", "untouched", *(f"nodes, {form}" for form in OURS), "best right peer"]
    titles += [f"s (call), {form}" for form in OURS] + ["fastest peer near", "MB", "all right, fixed, same bytes"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for graph, rows in graphs.items():
        ours = [rows[form] for form in OURS if form in rows and not rows[form]["failure"]]
        right = {tool: row for tool, row in rows.items() if tool not in (*OURS, "untouched") and is_right(row)}
        best = min(right, key=lambda tool: right[tool]["nodes"], default=None)
        near = [tool for tool, row in right.items() if row["nodes"] <= NEAR * min(row["nodes"] for row in ours)]
        fastest = min(near, key=lambda tool: statistics.median(right[tool]["wall_s"]), default=None)
        cells = [str(rows.get("untouched", {}).get("nodes", "")), *(str(row["nodes"]) for row in ours)]
        cells += [f"{right[best]['nodes']} {best}" if best else "none"]
        cells += [seconds(row) for row in ours] + [f"{seconds(right[fastest])} {fastest}" if fastest else "none"]
        cells += [f"{max(max(row['peak_mb']) for row in ours):.0f}"]
        proved = all(is_right(row) and row["fixed_point"] == "yes" and row["same_bytes"] for row in ours)
        print(f"| {graph} | " + " | ".join([*cells, "yes" if proved and len(ours) == len(OURS) else "**no**"]) + " |")


def seconds(row: Row) -> str:
    return f"{statistics.median(row['wall_s']):.2f} ({statistics.median(row['call_s']):.2f})"


def print_verdicts(graphs: dict[str, dict[str, Row]], only_nodes: bool) -> None:
    titles = ["graph", "form", "untouched", "ours", "best right peer", "wrong or failed peers", "result"]
    titles += [] if only_nodes else ["s", "fastest peer near", "MB", "fixed point", "same bytes", "bars missed"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    missed = 0
    for graph, rows in graphs.items():
        for form in OURS:
            if form in rows:
                cells = verdicts(rows, form, only_nodes)
                missed += cells[-1] != ""
                print(f"| {graph} | {form} | " + " | ".join(cells) + " |")
    print(f"\n{missed} rows miss something." if not only_nodes else "")


def verdicts(rows: dict[str, Row], form: str, only_nodes: bool) -> list[str]:
    ours = rows[form]
    peers = {tool: row for tool, row in rows.items() if tool not in (*OURS, "untouched")}
    right = {tool: row for tool, row in peers.items() if is_right(row)}
    bad = ", ".join(tool for tool, row in peers.items() if not is_right(row))
    best = min(right, key=lambda tool: right[tool]["nodes"], default=None)
    best_text = f"{right[best]['nodes']} {best}" if best else "–"
    start = str(rows.get("untouched", {}).get("nodes", ""))
    if ours["failure"]:
        return [
            start,
            "–",
            best_text,
            bad,
            f"**fails: {ours['failure']}**",
            *([] if only_nodes else ["–"] * 5 + ["all"]),
        ]
    result = next((f"**{size}: {ours[size]}**" for size in SIZES if ours.get(size) != RIGHT), RIGHT)
    nodes = ours["nodes"]
    is_fewest = best is None or nodes <= right[best]["nodes"]
    cells = [start, f"{nodes}" if is_fewest else f"**{nodes}**", best_text, bad, result.replace("|", "/")]
    if only_nodes:
        return cells
    seconds = statistics.median(ours["wall_s"])
    near = {tool: statistics.median(row["wall_s"]) for tool, row in right.items() if row["nodes"] <= NEAR * nodes}
    fastest = min(near, key=lambda tool: near[tool], default=None)
    bars = {
        "nodes": is_fewest,
        "time of a peer": fastest is None or seconds <= near[fastest],
        f"{LONGEST_S:.0f} s": seconds < LONGEST_S,
        f"{MOST_MB:.0f} MB": max(ours["peak_mb"]) <= MOST_MB,
        "right": result == RIGHT,
        "fixed point": ours["fixed_point"] == "yes",
        "same bytes": ours["same_bytes"] and len(ours["wall_s"]) > 1,
    }
    cells += [f"{seconds:.2f}", f"{near[fastest]:.2f} {fastest}" if fastest else "none", f"{max(ours['peak_mb']):.0f}"]
    cells += [str(ours["fixed_point"]), "yes" if bars["same bytes"] else "no"]
    return [*cells, ", ".join(name for name, met in bars.items() if not met)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--nodes" in sys.argv, "--summary" in sys.argv)
