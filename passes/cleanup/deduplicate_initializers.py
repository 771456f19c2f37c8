"""One copy of each weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


_HEAD_BYTES = 4096
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class DeduplicateInitializers(Pass):
    """Let initializers with equal dtype, shape and content share the first one.

    Contents are compared only where dtype and shape agree, first bytes first: a weight without a twin is hardly read.
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
            heads = [_digest(value.const_value, limit=_HEAD_BYTES) for value in group]
            common = Counter(heads)
            first_by_digest: dict[bytes, ir.Value] = {}
            for value, head in zip(group, heads, strict=True):
                if common[head] < 2:
                    continue
                kept = first_by_digest.setdefault(_digest(value.const_value), value)
                if kept is value or not recorder.may_apply(str(value.name)):
                    continue
                value.replace_all_uses_with(kept)
                del model.graph.initializers[str(value.name)]
        return recorder.result()


def _digest(tensor: ir.TensorProtocol | None, *, limit: int | None = None) -> bytes:
    """Return a hash of the content, or of its first `limit` bytes."""
    import hashlib

    import numpy as np
    import onnx_ir as ir

    from passes.data_file import read_elements

    assert tensor is not None
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(tensor, ir.ExternalTensor) and tensor.dtype.bitwidth >= 8:
        size = tensor.dtype.itemsize
        count = tensor.size if limit is None else min(tensor.size, int(limit / size))
        at_once = int(_PIECE_BYTES / size)
        for start in range(0, count, at_once):
            digest.update(read_elements(tensor, start, min(at_once, count - start)).view(np.uint8).data)
    elif isinstance(tensor, ir.StringTensor):
        for text in tensor.string_data():
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(tensor.tobytes()[:limit])
    return digest.digest()
