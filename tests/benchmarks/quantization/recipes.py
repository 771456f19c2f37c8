"""Ways to make an int8 artifact of an ONNX file, each as its documentation tells a user to.

`python recipes.py NAME MODEL_FOLDER SOURCE OUT` makes one in this process and prints a line of JSON: the seconds of the
call, imports excluded, and the file. The calibration samples are all that a peer is shown; graphwright gets the check
samples too, for its own verification. The samples to score on are shown to none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models import Feeds, samples

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
Make = Callable[[Path, Path, Path], Path]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an artifact is made, and on what it runs.

    is_peer: one that graphwright is measured against, as far as it is int8. needs: what the model must be, of
    about.json.
    """

    make: Make
    runtimes: tuple[str, ...]
    is_peer: bool = True
    needs: str = ""


def graphwright(folder: Path, source: Path, out: Path, *, target: str, precision: str) -> Path:
    """Return the artifact's model. A gate that fails is the benchmark's to see, not a failure to make it."""
    import exporter

    about = json.loads((folder / "about.json").read_text())
    goal = {"top1": "top1_agreement=0.99", "cosine": "cosine=0.999"}[about["task"]]
    report = exporter.build(
        str(source),
        out / "build",
        targets=target,
        precisions=precision,
        samples=str(folder / "check"),
        calibration=str(folder / "calibration"),
        padding_mask=about["padding"] or None,
        gates=(goal,) if precision == "auto" else None,
        speed_seconds=None if precision == "auto" else 0.0,
        baselines=False,
        threads=2,
    )
    built = [each for each in report.artifacts if each.path]
    if not built:
        raise RuntimeError("; ".join(each.reason or "; ".join(each.blockers) for each in report.artifacts))
    names = {ONNXRUNTIME: "model.onnx", OPENVINO: "openvino.xml"}
    return out / "build" / built[-1].path / names[target]


def fp32(folder: Path, source: Path, out: Path) -> Path:
    path = out / "model.onnx"
    path.hardlink_to(source)
    return path


def ort_static(folder: Path, source: Path, out: Path, *, per_channel: bool = False, method: str = "MinMax") -> Path:
    """ONNX Runtime's static quantization after its pre-processing; per channel with uint8 activations as it advises."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples: Iterator[Feeds] = samples(folder / "calibration")

        def get_next(self) -> Feeds | None:
            return next(self.samples, None)

    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(
        preprocessed(source, out),
        out / "model.onnx",
        Reader(),
        calibrate_method=getattr(CalibrationMethod, method),
        **(kinds if per_channel else {}),
    )
    return out / "model.onnx"


def ort_dynamic(folder: Path, source: Path, out: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(preprocessed(source, out), out / "model.onnx")
    return out / "model.onnx"


def preprocessed(source: Path, out: Path) -> Path:
    """Return the file that the tool's own pre-processing makes, without its symbolic shapes where those fail."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = out / "preprocessed.onnx"
    try:
        quant_pre_process(source, path)
    except Exception as error:
        print(f"pre-processing failed ({error}), so without symbolic shape inference", flush=True)
        quant_pre_process(source, path, skip_symbolic_shape=True)
    return path


def nncf_onnx(folder: Path, source: Path, out: Path, **options: str) -> Path:
    import onnx

    onnx.save(_nncf(onnx.load(source), folder, options), out / "model.onnx")
    return out / "model.onnx"


def nncf_openvino(folder: Path, source: Path, out: Path, **options: str) -> Path:
    import openvino

    quantized = _nncf(openvino.Core().read_model(source), folder, options)
    openvino.save_model(quantized, out / "openvino.xml", compress_to_fp16=False)
    return out / "openvino.xml"


def _nncf(model: Any, folder: Path, options: dict[str, str]) -> Any:
    import nncf

    chosen: dict[str, Any] = {}
    if "preset" in options:
        chosen["preset"] = nncf.QuantizationPreset(options["preset"])
    if "model_type" in options:
        chosen["model_type"] = nncf.ModelType(options["model_type"])
    rows = list(samples(folder / "calibration"))
    return nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), **chosen)


def optimum_intel(folder: Path, source: Path, out: Path) -> Path:
    """optimum-intel's static quantization of the encoder, from a Hugging Face folder, in an environment of its own."""
    import numpy as np
    import torch
    from datasets import Dataset
    from optimum.intel import OVModelForFeatureExtraction, OVQuantizationConfig, OVQuantizer

    rows = list(samples(folder / "calibration"))
    model = OVModelForFeatureExtraction.from_pretrained(folder / "huggingface", export=True)
    columns = {name: [row[name][0].tolist() for row in rows] for name in rows[0]}
    columns["token_type_ids"] = [np.zeros_like(row["input_ids"][0]).tolist() for row in rows]
    dataset = Dataset.from_dict(columns).with_format("torch")
    config = OVQuantizationConfig(bits=8, num_samples=len(rows))
    with torch.no_grad():
        OVQuantizer.from_pretrained(model).quantize(
            calibration_dataset=dataset, ov_config=config, save_directory=out, batch_size=1
        )
    path = out / "openvino_model.xml"
    return path.rename(out / "openvino.xml") and (out / "openvino.xml")


_OURS = {
    f"graphwright-{label}": Recipe(partial(graphwright, target=target, precision=precision), (target,), False)
    for target, suffix in ((ONNXRUNTIME, "ort"), (OPENVINO, "ov"))
    for precision in ("int8", "auto", "int8-dynamic")
    for label in (f"{precision}-{suffix}",)
    if (target, precision) != (OPENVINO, "int8-dynamic")
}
_BOTH = (ONNXRUNTIME, OPENVINO)
_NNCF: dict[str, dict[str, str]] = {
    "default": {},
    "mixed": {"preset": "mixed"},
    "transformer": {"model_type": "transformer"},
}

RECIPES: dict[str, Recipe] = {
    "fp32": Recipe(fp32, _BOTH, False),
    **_OURS,
    "ort-static": Recipe(ort_static, _BOTH),
    "ort-static-channel": Recipe(partial(ort_static, per_channel=True), _BOTH),
    "ort-static-percentile": Recipe(partial(ort_static, per_channel=True, method="Percentile"), _BOTH),
    "ort-static-entropy": Recipe(partial(ort_static, per_channel=True, method="Entropy"), _BOTH),
    "ort-dynamic": Recipe(ort_dynamic, (ONNXRUNTIME,)),
    **{f"nncf-{name}-ort": Recipe(partial(nncf_onnx, **options), (ONNXRUNTIME,)) for name, options in _NNCF.items()},
    **{f"nncf-{name}-ov": Recipe(partial(nncf_openvino, **options), (OPENVINO,)) for name, options in _NNCF.items()},
    "optimum-intel": Recipe(optimum_intel, (OPENVINO,), needs="is_transformer"),
}

if __name__ == "__main__":
    name, folder, source, out = sys.argv[1], *map(Path, sys.argv[2:5])
    started = time.perf_counter()
    made = RECIPES[name].make(folder, source, out)
    print("\n" + json.dumps({"file": str(made.relative_to(out)), "call_s": time.perf_counter() - started}))
