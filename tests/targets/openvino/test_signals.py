"""A signal after several models were opened and closed must reach its handler: Ctrl-C may not crash the process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import gc, os, signal, sys
from targets.openvino.runtime import require_device
first, second = require_device("CPU"), require_device("CPU")
for core in (first, second):
    core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
del first
gc.collect()
del core, second
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_two_models_is_handled() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, signal.Signals(-done.returncode).name if done.returncode < 0 else done.stderr
    assert done.stdout == "handled\n"
