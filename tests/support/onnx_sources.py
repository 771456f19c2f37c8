"""ONNX files and samples on disk, for commands to work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from passes.serialization import save_model
from tests.support.small_models import SMALL_MODELS

CLASSIFIER = """<ir_version: 10, opset_import: ["" : 20]>
classifier (float[batch, 3, 8, 8] image, float[batch, 3, 8, 8] other)
    => (float[batch, 4] logits, float[batch, 6] features) {
    both = Sub(image, other)
    c = Conv <pads = [1, 1, 1, 1]> (both, w)
    n = BatchNormalization (c, scale, bias, mean, variance)
    r = Relu(n)
    p = GlobalAveragePool(r)
    features = Flatten(p)
    logits = Gemm(features, w2, b2)
}"""


def classifier(path: Path) -> Path:
    """Write a small CNN with two inputs and two outputs, a BatchNormalization inside, and return its path."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((6, 3, 3, 3)),
        "scale": random.uniform(0.5, 1.5, 6),
        "bias": random.standard_normal(6),
        "mean": random.standard_normal(6),
        "variance": random.uniform(0.5, 1.5, 6),
        "w2": random.standard_normal((6, 4)),
        "b2": random.standard_normal(4),
    }
    proto = onnx.parser.parse_model(CLASSIFIER)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def classifier_samples(folder: Path, *, seed: int, count: int = 4) -> Path:
    """Write samples of batch sizes 2, 3, ... for the classifier and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        shape = (2 + index, 3, 8, 8)
        np.savez(
            folder / f"{index}.npz",
            image=random.standard_normal(shape).astype(np.float32),
            other=random.standard_normal(shape).astype(np.float32),
        )
    return folder


def small_model(name: str, path: Path) -> Path:
    """Write one of SMALL_MODELS and return its path."""
    model: ir.Model = SMALL_MODELS[name].model()
    save_model(model, path)
    return path
