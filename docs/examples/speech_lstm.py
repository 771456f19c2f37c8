"""A three-layer LSTM acoustic model with made-up weights, on filterbank features of synthesised sound.

    graphwright build docs/examples/speech_lstm.py:model --samples docs/examples/speech_lstm.py:held_out \\
        --calibration docs/examples/speech_lstm.py:calibration -o out

Batch and time are both dynamic. The weights are seeded, not trained: it shows recurrence, not recognition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Sample = dict[str, npt.NDArray[np.float32]]

BANDS = 80
HIDDEN = 512
LAYERS = 3
SYMBOLS = 64
SAMPLE_RATE_HZ = 16_000
WINDOW = 400  # 25 ms
HOP = 160  # 10 ms
CALIBRATION_SHAPES = ((4, 100), (2, 60), (1, 150), (4, 80), (8, 40), (2, 120), (4, 90), (1, 200))  # batch, frames
HELD_OUT_SHAPES = ((1, 100), (3, 77), (8, 50), (2, 140))


def model() -> tuple[Any, Any, dict[str, dict[int, str]]]:
    """Return the network ([B, T, 80] -> logits [B, T, 64]), a sample [2, 20, 80] and the dynamic dimensions' names."""
    import torch
    from torch import nn

    class AcousticModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(BANDS, HIDDEN, LAYERS, batch_first=True)
            self.head = nn.Linear(HIDDEN, SYMBOLS)

        def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
            states, _ = self.lstm(features)  # [B, T, 512]
            return {"logits": self.head(states)}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = AcousticModel().eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "weight" in name:  # larger than torch's default, so that gates open and close as in a trained model
                    parameter.mul_(2.0)
    sample = torch.randn(2, 20, BANDS, generator=torch.Generator().manual_seed(0))
    return module, sample, {"features": {0: "batch", 1: "time"}}


def calibration() -> Iterator[Sample]:
    """Yield batches [B, T, 80] of features."""
    yield from _batches(CALIBRATION_SHAPES, seed=1)


def held_out() -> Iterator[Sample]:
    """Yield batches of other sounds, of other sizes."""
    yield from _batches(HELD_OUT_SHAPES, seed=2)


def _batches(shapes: tuple[tuple[int, int], ...], *, seed: int) -> Iterator[Sample]:
    import numpy as np

    random = np.random.default_rng(seed)
    for batch, frames in shapes:
        yield {"features": np.stack([_features(_sound(frames, random)) for _ in range(batch)])}


def _sound(frames: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a vowel-like sound: a gliding buzz whose resonances and loudness drift, with noise and pauses."""
    import numpy as np

    length = WINDOW + HOP * (frames - 1)
    time = np.arange(length) / SAMPLE_RATE_HZ
    pitch_hz = random.uniform(90, 250) * (1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.5, 3) * time))
    turns = np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    resonances_hz = [
        base * (1 + 0.3 * np.sin(2 * np.pi * random.uniform(1, 5) * time + random.uniform(0, 6)))
        for base in (random.uniform(300, 800), random.uniform(900, 2200), random.uniform(2300, 3500))
    ]
    sound = np.zeros(length)
    for harmonic in range(1, 31):
        gain = sum(1 / (1 + ((harmonic * pitch_hz - peak) / 120.0) ** 2) for peak in resonances_hz)
        sound += gain * np.sin(2 * np.pi * harmonic * turns)
    loudness = np.clip(np.sin(2 * np.pi * random.uniform(1, 4) * time + random.uniform(0, 6)) + 0.5, 0, None)
    return sound * loudness + random.uniform(0.003, 0.05) * random.standard_normal(length)


def _features(sound: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return log energies in mel-spaced triangular bands, normalised over time: [T, 80]."""
    import numpy as np

    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, n=512)) ** 2  # [T, 257]
    energies = np.log(power @ _mel_bands().T + 1e-6)
    return ((energies - energies.mean(axis=0)) / (energies.std(axis=0) + 1e-5)).astype(np.float32)


def _mel_bands() -> npt.NDArray[np.float64]:
    """Return the band weights [80, 257]."""
    import numpy as np

    top_mel = 1127.0 * np.log1p(SAMPLE_RATE_HZ / 2 / 700.0)
    edges_hz = 700.0 * np.expm1(np.linspace(0, top_mel, BANDS + 2) / 1127.0)
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, 257)
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)
