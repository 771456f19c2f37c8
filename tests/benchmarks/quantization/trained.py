"""Two small networks, trained here on scikit-learn's digits to real accuracy, with their weights kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HELD_OUT = 400
EPOCHS = 12
LEAST_ACCURACY = 0.96
Arrays = tuple[np.ndarray, np.ndarray]


def digits(side: int) -> tuple[Arrays, Arrays]:
    """Return (pictures [N, 1, side, side] in 0..1, labels [N]) to train on, and held out ones."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    small = torch.from_numpy(found.images[order].astype(np.float32) / 16.0)[:, None]  # [N, 1, 8, 8]
    large = nn.functional.interpolate(small, (side, side), mode="bilinear").numpy()
    labels = found.target[order]
    return (large[HELD_OUT:], labels[HELD_OUT:]), (large[:HELD_OUT], labels[:HELD_OUT])


class DigitsNetwork(nn.Sequential):
    """Three blocks of convolution, norm, ReLU and pooling, then two dense layers: [B, 1, 32, 32] -> logits [B, 10]."""

    side = 32

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.ReLU(), nn.Linear(128, 10))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, max(channels // 4, 8), 1)
        self.widen = nn.Conv2d(max(channels // 4, 8), channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
        return x * nn.functional.hardsigmoid(self.widen(nn.functional.relu(self.narrow(pooled))))


class InvertedResidual(nn.Module):
    """Widen, depthwise, squeeze-and-excite, narrow; added to its input where the shapes allow."""

    def __init__(self, inputs: int, wide: int, outputs: int, kernel: int, stride: int, excite: bool, hard: bool):
        super().__init__()
        activation = nn.Hardswish if hard else nn.ReLU
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide), activation(), SqueezeExcite(wide) if excite else nn.Identity()),
            *(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


class MobileNetwork(nn.Sequential):
    """The blocks of MobileNetV3-Small (Howard et al., 2019, arXiv 1905.02244): [B, 1, 64, 64] -> logits [B, 10]."""

    side = 64
    blocks = (  # wide, outputs, kernel, stride, excite, hard
        (16, 16, 3, 2, True, False),
        (72, 24, 3, 2, False, False),
        (88, 24, 3, 1, False, False),
        (96, 40, 5, 2, True, True),
        (240, 40, 5, 1, True, True),
        (120, 48, 5, 1, True, True),
        (288, 96, 5, 1, True, True),
        (576, 96, 5, 1, True, True),
    )

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
        inputs = 16
        for wide, outputs, kernel, stride, excite, hard in self.blocks:
            layers.append(InvertedResidual(inputs, wide, outputs, kernel, stride, excite, hard))
            inputs = outputs
        layers += [nn.Conv2d(inputs, 576, 1, bias=False), nn.BatchNorm2d(576), nn.Hardswish()]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 256), nn.Hardswish(), nn.Linear(256, 10))
        super().__init__(*layers, *head)


def trained(kind: type[Any], folder: Path) -> nn.Module:
    """Return the network with the weights in `folder`, trained now if there are none.

    Raises RuntimeError when its accuracy on the held out digits is under LEAST_ACCURACY.
    """
    torch.manual_seed(0)
    module: nn.Module = kind()
    weights = folder / f"{kind.__name__}.pt"
    if weights.exists():
        module.load_state_dict(torch.load(weights, weights_only=True))
    else:
        _train(module, digits(kind.side)[0])
    module.eval()
    pictures, labels = digits(kind.side)[1]
    with torch.no_grad():
        accuracy = float((module(torch.from_numpy(pictures)).argmax(1).numpy() == labels).mean())
    if accuracy < LEAST_ACCURACY:
        raise RuntimeError(f"{kind.__name__} reaches {accuracy:.3f} on held out digits, which is no trained network.")
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), weights)
    print(f"{kind.__name__}: accuracy {accuracy:.4f} on {len(labels)} held out digits", flush=True)
    return module


def _train(module: nn.Module, data: Arrays) -> None:
    pictures, labels = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=1e-2)
    batches = (len(labels) + 63) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * batches)
    module.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(64):
            shifted = torch.roll(pictures[chosen], tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(shifted), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
