"""Small torch modules, as a user's builder functions; named by path in tests, and imported by none."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn


class Encoder(nn.Module):
    """Embedding, mean over the tokens that the mask keeps, linear: two inputs that share both dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor | None]:
        tokens = self.embedding(ids) * mask.unsqueeze(-1)
        mean = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"tokens": tokens, "logits": self.head(mean), "loss": None}


class Baked(nn.Module):
    """Reads its batch size as a Python integer: torch.export fixes it unless it traces Python itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), 2, 2)


class Fixed(nn.Module):
    """Takes a batch of two only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 4) * torch.tensor([[1.0], [2.0]])


class Branching(nn.Module):
    """Decides by a value: no trace can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class Exotic(nn.Module):
    """Uses two operators that ONNX has no translation for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.special.bessel_j0(x)
        return torch.special.bessel_j1(first)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.lstm(features)[0]


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    hidden: torch.Tensor
    extra: Any = None


class Structured(nn.Module):
    """Returns a dataclass, nested containers, one tensor twice and an input itself."""

    def forward(self, x: torch.Tensor, scale: float = 2.0, *, shift: bool = False) -> dict[str, Any]:
        y = x * scale + (1 if shift else 0)
        return {"result": Result(y, x - 1), "pair": (y, [x + 3]), "x": x}


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.linear(x))


def encoder() -> Any:
    dims = {0: "batch", 1: "length"}
    ids = torch.arange(10).reshape(2, 5)
    return Encoder(), (ids, torch.ones(2, 5)), {"ids": dims, "mask": dims}


def encoder_without_samples() -> Any:
    return Encoder()


def encoder_undeclared() -> Any:
    return Encoder(), {"ids": torch.ones(1, 5, dtype=torch.int64), "mask": torch.ones(1, 5)}


def baked() -> Any:
    return Baked(), torch.randn(1, 4), {"x": {0: "rows"}}


def fixed() -> Any:
    return Fixed(), torch.randn(2, 4)


def fixed_declared() -> Any:
    return Fixed(), torch.randn(2, 4), {"x": {0: "batch"}}


def branching() -> Any:
    return Branching(), torch.randn(2, 4), {"x": {0: "batch"}}


def exotic() -> Any:
    return Exotic(), torch.randn(2, 4), {"x": {0: "batch"}}


def recurrent() -> Any:
    return Recurrent(), torch.randn(2, 7, 4), {"features": {0: "batch", 1: "time"}}


def structured() -> Any:
    return Structured(), {"x": torch.randn(2, 4), "scale": 3.0, "shift": True}, {"x": {0: "batch"}}


def dropping() -> Any:
    return Dropping().train(), torch.randn(2, 4)


def half() -> Any:
    return Dropping().to(torch.bfloat16), torch.randn(2, 4, dtype=torch.bfloat16)


def raising() -> Any:
    raise ValueError("weights are missing")


def no_module() -> Any:
    return {"weights": 1}


def bad_sample() -> Any:
    return Dropping(), torch.randn(2, 5)
