"""The models that the quantization benchmark measures, with samples to calibrate on, to check with and to score on.

`python models.py OUT NAME` writes OUT/NAME/: dynamo.onnx and legacy.onnx as PyTorch's two exporters make them, weights
inside; calibration/, check/ and held_out/ with one .npz a sample, held_out with torch's fp32 outputs; timing-1.npz and
timing-8.npz; about.json. No sample is in two of the three folders. Every tool gets the same files.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
BATCHES = (1, 8)
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Model:
    """A network and its data.

    calibration, check: rows of batch 1. held_out: batches. axes: the dynamic ones. task: "top1" or "cosine", judged on
    `judged`. padding: the input whose zeros hide tokens. length: of sequences that are timed. labels: of held_out.
    """

    module: nn.Module
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    calibration: list[Feeds]
    check: list[Feeds]
    held_out: list[Feeds]
    task: str = "top1"
    judged: str = "logits"
    is_transformer: bool = False
    padding: str = ""
    length: int = 0
    labels: list[int] | None = None


def efficientnet(weights: Path) -> Model:
    example = _example("efficientnet_lite0")
    rows = _rows(itertools.islice(example.calibration(), 12))
    return Model(
        _Named(example.model()[0], "logits"),
        {"inputs": {0: "batch"}},
        ("logits",),
        *(rows[:64], rows[64:70]),
        list(example.held_out()),
    )


def resnet50(weights: Path) -> Model:
    """Random weights, real pictures."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "optimizers"))
    from vision_stand_in import stand_in_for_torchvision

    stand_in_for_torchvision()
    import timm

    example = _example("efficientnet_lite0")
    rows = _rows(itertools.islice(example.calibration(), 8))
    torch.manual_seed(0)
    module = timm.create_model("resnet50", pretrained=False)
    held_out = list(itertools.islice(example.held_out(), 9))
    return Model(
        _Named(module.eval(), "logits"), {"inputs": {0: "batch"}}, ("logits",), rows[:32], rows[32:36], held_out
    )


def minilm(weights: Path) -> Model:
    example = _example("minilm")
    module, _, axes = example.model()
    batches = list(example.calibration())
    return Model(
        module,
        axes,
        ("token_embeddings", "sentence_embedding"),
        *(_rows(batches[:-1]), _rows(batches[-1:])),
        list(example.held_out()),
        *("cosine", "sentence_embedding"),
        is_transformer=True,
        padding="attention_mask",
        length=64,
    )


def bert_base(weights: Path) -> Model:
    """Random weights, real sentences."""
    from transformers import BertConfig, BertModel

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(BertConfig(), add_pooling_layer=False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return {"token_embeddings": tokens}

    example = _example("minilm")
    torch.manual_seed(0)
    module = Encoder().eval()
    batches = list(example.calibration())
    return Model(
        module,
        example.DYNAMIC_SHAPES,
        ("token_embeddings",),
        *(_rows(batches[:4])[:24], _rows(batches[-1:])[:4]),
        list(itertools.islice(example.held_out(), 5)),
        *("cosine", "token_embeddings"),
        is_transformer=True,
        padding="attention_mask",
        length=128,
    )


def crepe(weights: Path) -> Model:
    example = _example("crepe")
    module, _, axes = example.model()
    rows = _rows(itertools.islice(example.calibration(), 7))
    return Model(module, axes, ("pitch",), rows[:56], rows[56:62], list(example.held_out()), judged="pitch")


def speech_lstm(weights: Path) -> Model:
    example = _example("speech_lstm")
    module, _, axes = example.model()
    batches = list(example.calibration())
    rows = (_rows(batches[:-1]), _rows(batches[-1:]))
    return Model(module, axes, ("logits",), *rows, list(example.held_out()), length=100)


def digits_cnn(weights: Path) -> Model:
    from trained import DigitsNetwork

    return _digits(DigitsNetwork, weights)


def mobilenetv3(weights: Path) -> Model:
    from trained import MobileNetwork

    return _digits(MobileNetwork, weights)


def _digits(kind: Any, weights: Path) -> Model:
    from trained import digits, trained

    (pictures, _), (others, labels) = digits(kind.side)
    rows = [{"pictures": picture[None]} for picture in pictures[:144]]
    held_out = [{"pictures": others[start : start + 8]} for start in range(0, len(others), 8)]
    module = _Named(trained(kind, weights), "logits")
    axes = {"pictures": {0: "batch"}}
    return Model(module, axes, ("logits",), rows[:128], rows[128:], held_out, labels=labels.tolist())


MODELS: dict[str, Callable[[Path], Model]] = {
    "efficientnet-lite0": efficientnet,
    "minilm": minilm,
    "crepe": crepe,
    "lstm": speech_lstm,
    "resnet50": resnet50,
    "bert-base": bert_base,
    "digits-cnn": digits_cnn,
    "mobilenetv3": mobilenetv3,
}


class _Named(nn.Module):
    """A network of one input, its result under a name."""

    def __init__(self, module: nn.Module, output: str) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.output: self.module(inputs)}


def prepare(name: str, out: Path, weights: Path) -> None:
    """Write all that the tools are given."""
    model = MODELS[name](weights)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("calibration", "check"):
        (folder / split).mkdir(exist_ok=True)
        for index, row in enumerate(getattr(model, split)):
            np.savez(folder / split / f"{index:03}.npz", **row)
    (folder / "held_out").mkdir(exist_ok=True)
    for index, feeds in enumerate(model.held_out):
        with torch.no_grad():
            results = model.module(*(torch.from_numpy(feeds[key]) for key in model.axes))
        arrays = {f"out:{key}": results[key].numpy() for key in model.outputs}
        np.savez(folder / "held_out" / f"{index:03}.npz", **{f"in:{key}": feeds[key] for key in feeds}, **arrays)
    for batch in BATCHES:
        np.savez(folder / f"timing-{batch}.npz", **timed(model, batch))
    export(model, folder)
    if model.is_transformer:
        model.module.bert.save_pretrained(folder / "huggingface")  # the form that optimum starts from
    facts = {key: getattr(model, key) for key in ("task", "judged", "is_transformer", "padding", "labels", "outputs")}
    (folder / "about.json").write_text(json.dumps(facts | {"samples": len(model.calibration)}))


def timed(model: Model, batch: int) -> Feeds:
    """Return a held out row repeated to `batch`, its second axis repeated or cut to the model's length."""
    row = _rows(model.held_out[-1:])[0]
    found = {}
    for name, array in row.items():
        if model.length:
            array = np.take(array, np.arange(model.length) % array.shape[1], axis=1)
        found[name] = np.ascontiguousarray(np.repeat(array, batch, axis=0))
    return found


def export(model: Model, folder: Path) -> None:
    """Write the two exporters' files; the traced batch is 2, so that no dimension becomes a constant."""
    names = list(model.axes)
    first = model.held_out[-1]
    example = tuple(torch.from_numpy(np.repeat(first[key][:1], 2, axis=0)) for key in names)
    dims = {dim: torch.export.Dim(dim) for axes in model.axes.values() for dim in axes.values()}
    torch.onnx.export(
        model.module,
        example,
        str(folder / "dynamo.onnx"),
        dynamo=True,
        external_data=False,
        input_names=names,
        output_names=list(model.outputs),
        dynamic_shapes=tuple({axis: dims[dim] for axis, dim in model.axes[key].items()} for key in names),
    )

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            results = self.module(*tensors)
            return tuple(results[key] for key in model.outputs)

    torch.onnx.export(
        Flat().eval(),
        example,
        str(folder / "legacy.onnx"),
        dynamo=False,
        input_names=names,
        output_names=list(model.outputs),
        dynamic_axes=model.axes,
    )


def _rows(batches: Iterable[Feeds]) -> list[Feeds]:
    """Return the batches cut into rows of batch 1, each padded as in its batch."""
    return [
        {key: array[index : index + 1] for key, array in feeds.items()}
        for feeds in batches
        for index in range(len(next(iter(feeds.values()))))
    ]


def samples(folder: Path) -> Iterator[Feeds]:
    """Yield the samples of a folder, in order."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as stored:
            yield dict(stored)


def _example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    prepare(sys.argv[2], Path(sys.argv[1]), Path(sys.argv[3]))
