"""Whether a calibration sample fits a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from passes.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx


def check_sample(
    feeds: Mapping[str, npt.NDArray[np.generic]], inputs: Mapping[str, onnx.ValueInfoProto], *, sample: int
) -> None:
    """Raise UsageError that names the sample and the input for one that is missing, unknown, misshapen or holds NaN.

    Infinities may be masks, and are left to the ranges.
    """
    missing = [name for name in inputs if name not in feeds]
    unknown = [name for name in feeds if name not in inputs]
    if missing:
        raise UsageError(
            f"Calibration sample {sample} lacks the input {', '.join(missing)}.",
            hint=f"The model's inputs: {', '.join(inputs)}. The sample has: {', '.join(feeds) or 'nothing'}.",
        )
    if unknown:
        raise UsageError(
            f"Calibration sample {sample} has an input that the model lacks: {', '.join(unknown)}.",
            hint=f"The model's inputs: {', '.join(inputs)}.",
        )
    for name, value in inputs.items():
        array = np.asarray(feeds[name])
        if not _fits(array, value):
            came = f"{array.dtype}[{','.join(map(str, array.shape))}]"
            raise UsageError(
                f"Calibration sample {sample}: the input '{name}' is {came}, and the model takes {_described(value)}.",
                hint="Give it as the model takes it.",
            )
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise UsageError(
                f"Calibration sample {sample}: the input '{name}' holds NaN.",
                hint="A range can't be taken from it: leave the sample out, or mend what made it.",
            )


def _fits(array: npt.NDArray[np.generic], value: onnx.ValueInfoProto) -> bool:
    import onnx

    if not value.type.HasField("tensor_type"):
        return True
    tensor = value.type.tensor_type
    if tensor.elem_type and array.dtype != onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type):
        return array.dtype.kind in "OUS" and tensor.elem_type == onnx.TensorProto.STRING
    if not tensor.HasField("shape"):
        return True
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    return len(sizes) == array.ndim and all(size in (None, came) for size, came in zip(sizes, array.shape, strict=True))


def _described(value: onnx.ValueInfoProto) -> str:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if not tensor.HasField("shape"):
        return str(dtype)
    dims = (str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return f"{dtype}[{','.join(dims)}]"
