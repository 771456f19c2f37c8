"""What others make of the same weights: ONNX Runtime's MatMulNBits quantizers, and NNCF's compress_weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

ONNXRUNTIME = {
    "ORT default sym g32": ("default", 32, True, 4),
    "ORT default asym g32": ("default", 32, False, 4),
    "ORT default sym g128": ("default", 128, True, 4),
    "ORT default asym g128": ("default", 128, False, 4),
    "ORT HQQ g32": ("hqq", 32, False, 4),
    "ORT HQQ g128": ("hqq", 128, False, 4),
    "ORT default int8 g128": ("default", 128, False, 8),
}
"""Rows of the table: algorithm, block, symmetric, bits."""

NNCF: dict[str, dict[str, Any]] = {
    "NNCF asym g64": {"mode": "INT4_ASYM", "group_size": 64},
    "NNCF asym g64 + AWQ + scale estimation": {
        "mode": "INT4_ASYM",
        "group_size": 64,
        "awq": True,
        "scale_estimation": True,
    },
    "NNCF asym g64 + GPTQ": {"mode": "INT4_ASYM", "group_size": 64, "gptq": True},
    "NNCF asym g32 + AWQ + scale estimation": {
        "mode": "INT4_ASYM",
        "group_size": 32,
        "awq": True,
        "scale_estimation": True,
    },
    "NNCF sym g32 + AWQ + scale estimation": {
        "mode": "INT4_SYM",
        "group_size": 32,
        "awq": True,
        "scale_estimation": True,
    },
    "NNCF int8": {"mode": "INT8_ASYM"},
}
"""Rows of the table: arguments of compress_weights. It refuses group 128 here: it does not divide 576."""


def quantize_by_onnxruntime(row: str, source: Path, file: Path, *, head: str) -> None:
    """Write the graph with MatMulNBits; the node `head`, which makes the logits, stays as it is in every row."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizers

    algorithm, block, is_symmetric, bits = ONNXRUNTIME[row]
    if algorithm == "hqq":
        config = quantizers.HQQWeightOnlyQuantConfig(block_size=block, bits=bits)
    else:
        config = quantizers.DefaultWeightOnlyQuantConfig(
            block_size=block, is_symmetric=is_symmetric, bits=bits, accuracy_level=0
        )
    model = onnx.load(source)
    quantizer = quantizers.MatMulNBitsQuantizer(model, nodes_to_exclude=[head], algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(file), use_external_data_format=True)


def compress_by_nncf(row: str, module: Any, calibration: np.ndarray) -> Any:
    """Return the OpenVINO model of a torch module, its weights compressed; embedding and head stay as they are."""
    import nncf
    import openvino as ov
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, use_cache=False).logits

    model = ov.convert_model(Logits().eval(), example_input=torch.randint(5, 49000, (1, 16)), input=[-1, -1])
    if not row:
        return model
    settings = dict(NNCF[row])
    mode = nncf.CompressWeightsMode[settings.pop("mode")]
    if "group_size" in settings:
        settings["dataset"] = nncf.Dataset([ids[None] for ids in calibration])
        settings["all_layers"] = False
        settings["backup_mode"] = nncf.BackupMode.NONE  # embedding and head
    else:
        settings["ignored_scope"] = nncf.IgnoredScope(patterns=[".*lm_head.*", ".*embed_tokens.*"])
    return nncf.compress_weights(model, mode=mode, **settings)
