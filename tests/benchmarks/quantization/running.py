"""Open an artifact as its user would, and run a command with its memory watched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], dict[str, np.ndarray]]
POLL_S = 0.1


def open_onnxruntime(file: Path, hint: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    wanted = {entry.name for entry in session.get_inputs()}
    return lambda feeds: dict(
        zip(names, session.run(None, {key: feeds[key] for key in feeds if key in wanted}), strict=True)
    )


def open_openvino(file: Path, hint: str) -> Run:
    """`hint` is the inference precision; "" is OpenVINO's own choice. A graphwright artifact's manifest fixes all."""
    import openvino

    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    manifest = file.parent / "manifest.json"
    if manifest.exists():
        settings = json.loads(manifest.read_text())["settings"]
        properties |= {key.upper(): value for key, value in settings.items() if key not in ("device", "precision_hint")}
    elif hint:
        properties["INFERENCE_PRECISION_HINT"] = hint
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(file)), "CPU", properties)
    request = compiled.create_infer_request()
    ports = {port.any_name: port for port in compiled.outputs}
    wanted = {name for port in compiled.inputs for name in port.names}

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        given = {key: feeds[key] for key in feeds if key in wanted}
        if "token_type_ids" in wanted:
            given["token_type_ids"] = np.zeros_like(feeds["input_ids"])
        results = request.infer(given, share_inputs=True)
        return {name: results[port] for name, port in ports.items()}

    return run


OPEN: dict[str, Callable[[Path, str], Run]] = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def child(
    command: list[str], *, longest_s: float, most_mb: float, folder: Path, needs_result: bool = True
) -> tuple[dict[str, Any], str, float]:
    """Return the last line of JSON that the process printed, why there is none, and its peak memory in MB.

    Memory is the resident set of the process and all its children, looked at every POLL_S. A process that passes
    `most_mb` or `longest_s` is killed with its children, and that is the reason.
    """
    here = Path(__file__).resolve()
    environment = os.environ | {"PYTHONPATH": str(here.parents[3]), "TOKENIZERS_PARALLELISM": "false"}
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True, cwd=folder
        )
        started, peak, reason = time.monotonic(), 0.0, ""
        while process.poll() is None:
            peak = max(peak, resident_mb(process.pid))
            if time.monotonic() - started > longest_s:
                reason = f"not finished after {longest_s:.0f} s"
            elif peak > most_mb:
                reason = f"took more than {most_mb:.0f} MB"
            if reason:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(POLL_S)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not reason and process.returncode < 0:
        reason = f"killed by {signal.Signals(-process.returncode).name}"
    has_result = bool(lines) and lines[-1].startswith("{")
    if not reason and (process.returncode or (needs_result and not has_result)):
        reason = last_error(lines)
    return (json.loads(lines[-1]) if has_result and not reason else {}), reason, peak


def resident_mb(root: int) -> float:
    """Return the resident memory of a process and its descendants, MB."""
    total, pending = 0, [root]
    while pending:
        process = Path(f"/proc/{pending.pop()}")
        try:
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (process / "task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total / 1e6


def last_error(lines: list[str]) -> str:
    """Return the last line that names an exception, or the last line."""
    named = [line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception"))]
    return " ".join((named or lines or ["no output"])[-1].split())[:300]
