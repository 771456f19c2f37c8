"""One copy of each weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class DeduplicateInitializers(Pass):
    """Let initializers with equal dtype, shape and content share the first one.

    Contents are compared only where dtype and shape agree, piece by piece, so a weight without a twin is never read.
    An initializer that is a graph input or output keeps its own copy.
    """

    name: ClassVar[str] = "deduplicate-initializers"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        groups: dict[tuple[object, ...], list[ir.Value]] = {}
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output() or not name:
                continue
            groups.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
        for group in groups.values():
            if len(group) < 2:
                continue
            first_by_digest: dict[bytes, ir.Value] = {}
            for value in group:
                kept = first_by_digest.setdefault(_digest(value.const_value), value)
                if kept is value or not recorder.may_apply(str(value.name)):
                    continue
                value.replace_all_uses_with(kept)
                del model.graph.initializers[str(value.name)]
        return recorder.result()


def _digest(tensor: ir.TensorProtocol | None) -> bytes:
    import hashlib

    import onnx_ir as ir

    assert tensor is not None
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes:
        with open(tensor.path, "rb") as file:  # noqa: PTH123 (a str path that onnx_ir composed)
            file.seek(tensor.offset or 0)
            left = tensor.nbytes
            while left > 0:
                piece = file.read(min(left, 1 << 20))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
    elif isinstance(tensor, ir.StringTensor):
        for text in tensor.string_data():
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(tensor.tobytes())
    return digest.digest()
