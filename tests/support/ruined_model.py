"""A small classifier with one layer that int8 ruins, and samples for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

RUINED = "ruined"
"""The name of the layer whose input has one channel of enormous numbers, which its weights ignore."""

_TEXT = """<ir_version: 10, opset_import: ["" : 20]>
classifier (float[batch, 4, 8, 8] image) => (float[batch, 12] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    r = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    s = Relu(b)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    logits = Gemm <transB = 1> (f, w3, b3)
}"""


def ruined_model(path: Path) -> Path:
    """Write the classifier and return its path."""
    random = np.random.default_rng(0)
    constants = {
        "w1": random.standard_normal((16, 4, 3, 3)) / 5,
        "b1": random.standard_normal(16) / 10,
        "w2": random.standard_normal((16, 16, 3, 3)) / 12,
        "b2": random.standard_normal(16) / 10,
        "w3": random.standard_normal((12, 16)),
        "b3": random.standard_normal(12) / 10,
    }
    constants["w1"][:, 0] = 0
    proto = onnx.parser.parse_model(_TEXT)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    for index, node in enumerate(proto.graph.node):
        node.name = RUINED if index == 0 else f"node_{index}"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def ruined_samples(folder: Path, *, seed: int, count: int = 8, batch: int = 6) -> Path:
    """Write batches whose first channel is a thousand times larger than the others, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        image = random.standard_normal((batch, 4, 8, 8)).astype(np.float32)
        image *= random.uniform(0.5, 2, (batch, 1, 1, 1)).astype(np.float32)
        image[:, 0] *= 1000
        np.savez(folder / f"{index}.npz", image=image)
    return folder
