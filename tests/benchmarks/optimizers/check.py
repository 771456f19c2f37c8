"""Whether an optimized file still is the network: ONNX Runtime's outputs against torch's at traced and untraced sizes.

`python check.py MODEL.onnx FOLDER` prints one line of JSON: the nodes, and per size "right" or what is wrong. FOLDER
holds {traced,untraced1,untraced2}.npz. Right means: every output is there, of the same shape and finite, and within
the verifier's own fp32 tolerances of torch's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SIZES = ("traced", "untraced1", "untraced2")
RIGHT = "right"


def main(path: Path, folder: Path) -> dict[str, Any]:
    import onnx
    import onnxruntime
    from counting import node_count

    result: dict[str, Any] = {"nodes": node_count(onnx.load(path, load_external_data=False)), "load": RIGHT}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return result | {"load": first_line(error), **dict.fromkeys(SIZES, "does not load")}
    return result | {size: verdict(session, folder / f"{size}.npz") for size in SIZES}


def verdict(session: Any, sample: Path) -> str:
    import numpy as np

    stored = np.load(sample)
    feeds = {key.removeprefix("in:"): stored[key] for key in stored.files if key.startswith("in:")}
    wanted = {key.removeprefix("out:"): stored[key] for key in stored.files if key.startswith("out:")}
    names = [output.name for output in session.get_outputs()]
    if sorted(names) != sorted(wanted):
        return f"outputs {names} instead of {sorted(wanted)}"
    taken = {entry.name for entry in session.get_inputs()}
    try:
        results = session.run(names, {name: array for name, array in feeds.items() if name in taken})
    except Exception as error:
        return first_line(error)
    faults = [fault(name, wanted[name], array) for name, array in zip(names, results, strict=True)]
    return next((text for text in faults if text), RIGHT)


def fault(name: str, wanted: Any, array: Any) -> str:
    """Return what is wrong with one output, or nothing."""
    import numpy as np

    from exporter.evaluation.tolerance import TOLERANCES

    if wanted.shape != array.shape or wanted.dtype != array.dtype:
        return f"{name}: {array.dtype}{list(array.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
    if not np.isfinite(array).all():
        return f"{name}: not finite"
    error = array.astype(np.float64) - wanted
    power = float((wanted.astype(np.float64) ** 2).sum())
    sqnr_db = 10 * np.log10(power / max(float((error**2).sum()), 1e-300)) if power else -100.0
    relative = float(abs(error).max()) / max(float(abs(wanted).max()), 1e-300)
    bounds = TOLERANCES["fp32"]
    if sqnr_db < bounds["sqnr_db"] or relative > bounds["max_relative"]:
        return f"{name}: {sqnr_db:.1f} dB, worst {relative:.1e}"
    return ""


def first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]


if __name__ == "__main__":
    print("\n" + json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
