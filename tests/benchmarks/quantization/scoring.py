"""Score an artifact on the held out samples: `python scoring.py RUNTIME HINT FILE MODEL_FOLDER`, one line of JSON.

sqnr_db: the least over outputs of signal over error power against torch's fp32 outputs, summed over all samples, where
padding is left out. agreement: share of rows with torch's top-1, or the mean cosine. accuracy: share of right labels.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from models import samples
from running import OPEN

RENAMED = {"token_embeddings": "last_hidden_state"}
"""What optimum calls an output."""


def main(runtime: str, hint: str, file: Path, folder: Path) -> dict[str, Any]:
    about = json.loads((folder / "about.json").read_text())
    run = OPEN[runtime](file, hint)
    powers: dict[str, list[float]] = {}
    agreements: list[float] = []
    predicted: list[int] = []
    for stored in samples(folder / "held_out"):
        feeds = {key[3:]: array for key, array in stored.items() if key.startswith("in:")}
        results = run(feeds)
        kept = feeds[about["padding"]].astype(bool) if about["padding"] else None
        for name in about["outputs"]:
            reference = stored[f"out:{name}"]
            result = results.get(name, results.get(RENAMED.get(name, "")))
            if result is None:
                continue  # optimum leaves the pooled output to its own code
            if kept is not None and reference.ndim == 3:
                reference, result = reference[kept], result[kept]
            if not np.isfinite(result).all():
                return {"failure": f"'{name}' is not finite"}
            error = result.astype(np.float64) - reference
            signal, noise = powers.setdefault(name, [0.0, 0.0])
            powers[name] = [signal + float((reference.astype(np.float64) ** 2).sum()), noise + float((error**2).sum())]
            if name == about["judged"]:
                agreements += agreement(reference, result, about["task"])
                predicted += result.reshape(-1, result.shape[-1]).argmax(1).tolist()
    found: dict[str, Any] = {
        "outputs": {name: decibels(*power) for name, power in powers.items()},
        "agreement": float(np.mean(agreements)) if agreements else None,
    }
    found["sqnr_db"] = min(found["outputs"].values())
    if about["labels"]:
        found["accuracy"] = float(np.mean(np.array(predicted) == about["labels"]))
    return found


def agreement(reference: np.ndarray, result: np.ndarray, task: str) -> list[float]:
    """Return one figure a row: 1 or 0 for the same top-1, or the cosine."""
    first, second = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (reference, result))
    if task == "top1":
        return (first.argmax(1) == second.argmax(1)).astype(float).tolist()
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return ((first * second).sum(1) / np.maximum(lengths, 1e-30)).tolist()


def decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if noise and signal else (300.0 if signal else -300.0)


if __name__ == "__main__":
    report = main(sys.argv[1], sys.argv[2].strip("-"), Path(sys.argv[3]), Path(sys.argv[4]))
    print("\n" + json.dumps(report))
