"""Running an OpenVINO artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.errors import ArtifactRefused, GraphwrightError, UsageError
from targets.feeds import check_feeds
from targets.manifest import checked_file, read_manifest
from targets.openvino.build import IR_FILE, WEIGHTS_FILE
from targets.openvino.compiled import compile_ir
from targets.openvino.conversion import cause_from_error
from targets.openvino.runtime import load_openvino
from targets.openvino.settings import Settings

if TYPE_CHECKING:
    from targets.base import Array, Artifact, Runner, TensorSpec

_INT32 = np.iinfo(np.int32)
_WIDER_THAN_INT32 = frozenset({"int64", "uint64", "uint32"})


@dataclass(slots=True)
class OpenVinoRunner:
    """One inference request; every call returns arrays of its own. Inputs and outputs go by position."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    request: Any
    narrows_integers: bool

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(feeds, self.inputs)
        if self.narrows_integers:
            _check_int32(feeds)
        for index, spec in enumerate(self.inputs):
            self.request.set_input_tensor(index, _tensor_from_array(feeds[spec.name]))
        try:
            self.request.infer()
        except Exception as error:  # the feeds fit the specs, so it is a size that the graph does not take
            raise UsageError(
                f"OpenVINO does not run the model on these inputs: {cause_from_error(error)}",
                hint="Check whether the graph takes these sizes: a traced size may be fixed inside it.",
            ) from error
        tensors = [self.request.get_output_tensor(index) for index in range(len(self.outputs))]
        return {spec.name: _array_from_tensor(tensor, spec) for spec, tensor in zip(self.outputs, tensors, strict=True)}


@contextmanager
def open_artifact(artifact: Artifact, *, threads: int) -> Iterator[Runner]:
    """Yield the runner of an artifact whose files are as they were built.

    Raises ArtifactRefused for changed files or another target's artifact, CannotRun without its device.
    """
    manifest = read_manifest(artifact.path)
    if manifest.target != "openvino":
        raise ArtifactRefused(f"The artifact is of '{manifest.target}', not of 'openvino'.")
    try:
        settings = Settings(manifest.settings["device"], manifest.settings["precision_hint"])
    except KeyError as error:
        raise ArtifactRefused(f"The manifest of the artifact lacks the setting {error}.") from error
    graph, _ = (checked_file(artifact.path, manifest, name) for name in (IR_FILE, WEIGHTS_FILE))
    try:
        compiled = compile_ir(graph, settings, threads=threads)
    except GraphwrightError:
        raise
    except Exception as error:  # plug-ins raise RuntimeError and what their kernels raise
        built = manifest.versions.get("openvino", "unknown")
        raise ArtifactRefused(
            f"OpenVINO does not load the artifact: {cause_from_error(error).replace(f'{artifact.path}/', '')}",
            hint=f"It was built with {built}.",
        ) from error
    request = compiled.create_infer_request()
    yield OpenVinoRunner(manifest.inputs, manifest.outputs, request, settings.device == "CPU")


def _check_int32(feeds: Mapping[str, Array]) -> None:
    """Raise UsageError for integers that the CPU plug-in would cut off: it computes int64 in int32."""
    for name, array in feeds.items():
        if array.dtype.name in _WIDER_THAN_INT32 and array.size:
            low, high = int(array.min()), int(array.max())
            if low < _INT32.min or high > _INT32.max:
                raise UsageError(
                    f"'{name}' holds {low if low < _INT32.min else high}; OpenVINO's CPU device computes "
                    f"{array.dtype.name} as int32 and would cut it off.",
                    hint="Keep integers within 32 bits, or take another target.",
                )


def _tensor_from_array(array: Array) -> Any:
    openvino = load_openvino()
    contiguous: Array = np.asarray(array, order="C")
    if array.dtype.name == "bfloat16":  # not a numpy type: goes as its bits
        return openvino.Tensor(contiguous.view(np.uint16), list(array.shape), openvino.Type.bf16)
    return openvino.Tensor(contiguous)


def _array_from_tensor(tensor: Any, spec: TensorSpec) -> Array:
    """Return a copy: the tensor's memory is written again by the next inference."""
    if spec.dtype == "bfloat16":
        import ml_dtypes

        return np.array(tensor.data.view(np.uint16)).view(ml_dtypes.bfloat16)
    array: Array = np.array(tensor.data)
    return array
