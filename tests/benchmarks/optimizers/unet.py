"""A plain U-Net in torch: four halvings, skips by concatenation, transposed convolutions on the way up."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (32, 64, 128, 256)


class UNet(nn.Module):
    """pixel_values [B, 3, 16 h, 16 w] -> class logits [B, 4, 16 h, 16 w]."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        channels = 3
        for width in WIDTHS:
            self.down.append(_block(channels, width))
            channels = width
        self.bottom = _block(channels, 2 * channels)
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for width in reversed(WIDTHS):
            self.up.append(nn.ConvTranspose2d(2 * width, width, 2, stride=2))
            self.merge.append(_block(2 * width, width))
        self.head = nn.Conv2d(WIDTHS[0], 4, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        skips = []
        x = pixel_values
        for block in self.down:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)
