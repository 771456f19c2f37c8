"""A weight behind DequantizeLinear as com.microsoft operators take it: [N, blocks, bytes], column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from passes.matching import constant_tensor, input_at, integer, integers, is_op, producer_of
from passes.quantize.weight_only.storage import packed_nibbles, unsigned_codes

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.editing import Editor

    Codes = npt.NDArray[np.uint8]

LEAST_LENGTH = 16
USUAL_LENGTH = 128
"""The block that a column with one scale is cut into: its scale is repeated."""

_BITS = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8}


@dataclass(frozen=True, slots=True)
class Parts:
    """The stored weight: codes [N, blocks, bytes], scales [N, blocks], zero points [N, bytes] or None."""

    codes: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None


@dataclass(slots=True)
class BlockWeight:
    """What a DequantizeLinear `node` yields: codes of rank 2 whose blocks run along `axis`.

    length: entries in a block; a column with one scale is cut into blocks of USUAL_LENGTH or what divides it.
    """

    node: ir.Node
    axis: int
    length: int
    is_per_channel: bool
    codes: ir.TensorProtocol
    scales: ir.TensorProtocol
    zero_points: ir.TensorProtocol | None
    operands: tuple[str, ...]
    _parts: Parts | None = field(default=None)

    @property
    def rows(self) -> int:
        return int(self.codes.shape.numpy()[self.axis])

    @property
    def columns(self) -> int:
        return int(self.codes.shape.numpy()[1 - self.axis])

    @property
    def bits(self) -> int:
        return _BITS[self.codes.dtype.name]

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.length)

    def problem(self) -> str:
        """Return why the operators can't take these blocks, or nothing."""
        if self.length < LEAST_LENGTH or self.length & (self.length - 1):
            return f"its blocks have {self.length} entries, not a power of two from {LEAST_LENGTH} on"
        return ""

    def parts(self, editor: Editor) -> Parts:
        """Return the initializers, made at the first call; their content is made when it is read, and not kept."""
        if self._parts is None:
            base = self.operands[0]
            width = self.length * self.bits // 8
            self._parts = Parts(
                _lazy(editor, f"{base}_blocks", "UINT8", (self.columns, self.blocks, width), self._packed_blocks),
                _lazy(editor, f"{base}_scales", self.scales.dtype.name, (self.columns, self.blocks), self._scales),
                None
                if not self._has_zero_points
                else _lazy(
                    editor,
                    f"{base}_zero_points",
                    "UINT8",
                    (self.columns, -(-self.blocks * self.bits // 8)),
                    self._zero_points,
                ),
            )
        return self._parts

    def table(self, editor: Editor, before: ir.Node) -> ir.Value:
        """Return the codes as a table [N, bytes of a row]: the products' own, where some read this weight too."""
        width = self.rows * self.bits // 8
        is_shared = any(not is_op(reader, "Gather") for reader, _ in self.node.outputs[0].uses()) or self._has_blocks
        if not is_shared or self.rows % self.length:
            return _lazy(editor, f"{self.operands[0]}_table", "UINT8", (self.columns, width), self._packed_rows)
        codes = self.parts(editor).codes
        shape = editor.constant(np.array([self.columns, width], np.int64), f"{codes.name}_shape")
        return editor.insert(
            before, "Reshape", [codes, shape], name=f"{codes.name}_table", like=codes, shape=(self.columns, width)
        )

    def drop_unread(self, model: ir.Model) -> None:
        """Remove the initializers that DequantizeLinear read, where nothing reads them any more."""
        for name in self.operands:
            value = model.graph.initializers.get(name)
            if value is not None and not value.uses() and not value.is_graph_output():
                del model.graph.initializers[name]

    @property
    def _has_blocks(self) -> bool:
        return self._parts is not None and bool(self._parts.codes.uses())

    def _by_column(self) -> Codes:
        """Return the codes [N, K], counted from 0."""
        codes = unsigned_codes(self.codes)
        return codes if self.axis == 1 else codes.T

    def _packed_rows(self) -> Codes:
        return self._packed(np.ascontiguousarray(self._by_column()))

    def _packed_blocks(self) -> Codes:
        codes = self._by_column()
        missing = self.blocks * self.length - self.rows
        if missing:
            last = self._whole_zero_points()[:, -1:]  # what is filled in stands for 0
            codes = np.concatenate([codes, np.repeat(last, missing, axis=1)], axis=1)
        return self._packed(np.ascontiguousarray(codes))

    def _packed(self, codes: Codes) -> Codes:
        return packed_nibbles(codes) if self.bits == 4 else codes

    def _scales(self) -> npt.NDArray[np.generic]:
        return self._by_block(self.scales)

    def _by_block(self, tensor: ir.TensorProtocol) -> npt.NDArray[np.generic]:
        """Return parameters [N, blocks]."""
        array = unsigned_codes(tensor) if tensor.dtype.name in _BITS else tensor.numpy()
        if self.is_per_channel:
            return np.repeat(array.reshape(-1, 1), self.blocks, axis=1)
        return array if self.axis == 1 else array.T

    def _whole_zero_points(self) -> Codes:
        if self.zero_points is None:
            zero = 0 if self._has_zero_points else 1 << (self.bits - 1)
            return np.full((self.columns, self.blocks), zero, np.uint8)
        return np.asarray(self._by_block(self.zero_points), np.uint8)

    @property
    def _has_zero_points(self) -> bool:
        """Return whether the operators must be given zero points: without, theirs is the middle code, ONNX's is 0."""
        return self.zero_points is not None or self.codes.dtype.name.startswith("UINT")

    def _zero_points(self) -> Codes:
        """Return the zero points [N, bytes]; two 4-bit ones share a byte, and each column begins with a byte."""
        zeros = self._whole_zero_points()
        if self.bits == 8:
            return np.ascontiguousarray(zeros)
        if zeros.shape[1] % 2:
            zeros = np.concatenate([zeros, np.zeros((zeros.shape[0], 1), np.uint8)], axis=1)
        return packed_nibbles(zeros)


def block_weight_of(node: ir.Node, index: int) -> BlockWeight | None:
    """Return the weight in blocks that `node` reads at input `index`; None for any other operand."""
    value = input_at(node, index)
    axis = 1 if is_op(node, "Gather") or integer(node, "transB", 0) else 0
    if is_op(node, "Gather") and integer(node, "axis", 0) != 0:
        return None
    if index == 1 and producer_of(node.inputs[0], "DequantizeLinear") is not None:
        return None  # an int8 product: its input is quantized too
    transpose = producer_of(value, "Transpose")
    if transpose is not None and is_op(node, "MatMul") and integers(transpose, "perm") in (None, (1, 0)):
        value, axis = transpose.inputs[0], 1
    dequantize = producer_of(value, "DequantizeLinear")
    if dequantize is None or len(dequantize.inputs) < 2:
        return None
    codes, scales = (constant_tensor(operand) for operand in dequantize.inputs[:2])
    zero = input_at(dequantize, 2)
    if codes is None or scales is None or codes.dtype.name not in _BITS or len(codes.shape) != 2:
        return None
    if integer(dequantize, "output_dtype", 0) not in (0, int(scales.dtype)):
        return None  # the operators yield what the scales are
    zeros = constant_tensor(zero)
    if zero is not None and zeros is None:
        return None
    operands = tuple(str(operand.name) for operand in dequantize.inputs if operand is not None)
    parts, shape = (codes, scales, zeros, operands), codes.shape.numpy()
    along, block = integer(dequantize, "axis", 1) % 2, integer(dequantize, "block_size", 0)
    if block and along == axis:
        return BlockWeight(dequantize, axis, block, False, *parts)
    if not block and len(scales.shape) == 1 and along == 1 - axis and scales.size == shape[1 - axis]:
        return BlockWeight(dequantize, axis, _length(shape[axis]), True, *parts)
    return None


def _length(rows: int) -> int:
    """Return the longest block, up to the usual one, that divides `rows`; the usual one where none does."""
    length = USUAL_LENGTH
    while length >= LEAST_LENGTH:
        if rows % length == 0:
            return length
        length //= 2
    return USUAL_LENGTH if rows > USUAL_LENGTH // 2 else LEAST_LENGTH


def _lazy(
    editor: Editor, base: str, kind: str, shape: Sequence[int], content: Callable[[], npt.NDArray[np.generic]]
) -> ir.Value:
    import onnx_ir as ir

    name, dtype = editor.fresh_name(base), ir.DataType[kind]

    def read() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(content()).reshape(tuple(shape)), dtype=dtype, name=name)

    tensor = ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
    editor.model.graph.register_initializer(value)
    return value
