"""Random legal graphs: many types and ranks, shape arithmetic, control flow, functions, and near misses of patterns.

`random_model` draws everything from one `random.Random`, so a seed replays a graph; hypothesis' own Random shrinks one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, HALF, INT64, INT32, BOOL = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
)
FLOATS = (FLOAT, DOUBLE, HALF)
Dim = int | str
Shape = tuple[Dim, ...]

LENGTHS: tuple[Mapping[str, int], ...] = ({"N": 2, "S": 5}, {"N": 1, "S": 3}, {"N": 3, "S": 1})
"""What the symbols are when a graph is run."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph. `is_exact`: rounding has not touched it, so a comparison of it is safe."""

    name: str
    dtype: int
    shape: Shape
    is_exact: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(slots=True)
class Builder:
    """A graph being drawn; a subgraph's builder sees the values of the graph around it."""

    random: random.Random
    opset: int
    prefix: str = ""
    depth: int = 0
    pool: list[Value] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)
    value_info: list[Any] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"{self.prefix}v{self.count}"

    def flip(self, chance: float = 0.5) -> bool:
        return self.random.random() < chance

    def pick(self, accept: Callable[[Value], bool]) -> Value | None:
        """Return a value of the pool that fits, the newer ones more often; None when there is none."""
        fitting = [value for value in self.pool if accept(value)]
        if not fitting:
            return None
        recent = fitting[-4:]
        return self.random.choice(recent if self.flip(0.7) else fitting)

    def add(
        self,
        op: str,
        inputs: Sequence[Value | str | None],
        shape: Shape,
        dtype: int | None = None,
        *,
        keep: bool = True,
        exact: bool = False,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Append a node of one output and return the output; `keep` puts it into the pool."""
        first = next((value for value in inputs if isinstance(value, Value)), None)
        if dtype is None:
            assert first is not None
            dtype = first.dtype
        value = Value(self.name(), dtype, shape, exact)
        names = ["" if v is None else v if isinstance(v, str) else v.name for v in inputs]
        label = f"n_{value.name}" if self.flip(0.8) else ""
        self.nodes.append(helper.make_node(op, names, [value.name], name=label, domain=domain, **attributes))
        self.declare(value)
        if keep:
            self.pool.append(value)
        return value

    def add_many(
        self, op: str, inputs: Sequence[Value | None], outputs: Sequence[tuple[Shape, int]], **attributes: Any
    ) -> list[Value]:
        values = [Value(self.name(), dtype, shape) for shape, dtype in outputs]
        names = ["" if v is None else v.name for v in inputs]
        self.nodes.append(
            helper.make_node(op, names, [v.name for v in values], name=f"n_{values[0].name}", **attributes)
        )
        for value in values:
            self.declare(value)
        self.pool.extend(values)
        return values

    def declare(self, value: Value) -> None:
        if self.flip(0.6):
            shape: list[Any] = [None if isinstance(d, str) and self.flip(0.2) else d for d in value.shape]
            self.value_info.append(helper.make_tensor_value_info(value.name, value.dtype, shape))

    def constant(self, content: Any, dtype: int, *, base: str = "") -> Value:
        """Return a constant, as an initializer or as a Constant node."""
        array = np.asarray(content, dtype=helper.tensor_dtype_to_np_dtype(dtype))
        value = Value(base + self.name(), dtype, tuple(array.shape), True)
        if self.flip() or self.depth:
            tensor = numpy_helper.from_array(array, value.name)
            self.nodes.append(helper.make_node("Constant", [], [value.name], value=tensor))
        else:
            self.initializers.append(numpy_helper.from_array(array, value.name))
        return value

    def integers(self, *content: int) -> Value:
        return self.constant(list(content), INT64)

    def weight(self, dtype: int, *shape: int, scale: float = 0.5) -> Value:
        numbers = [self.random.gauss(0, scale) for _ in range(int(np.prod(shape)))]
        return self.constant(np.array(numbers).reshape(shape), dtype)

    def inner(self) -> Builder:
        """Return a builder of a subgraph."""
        self.count += 1
        return Builder(
            self.random,
            self.opset,
            f"{self.prefix}s{self.count}_",
            self.depth + 1,
            list(self.pool),
            functions=self.functions,
        )


Block = Callable[[Builder], None]


def random_model(
    source: random.Random, blocks: Sequence[Block] | None = None, *, size: int | None = None
) -> onnx.ModelProto:
    """Return a legal model of a few blocks, chosen from all that there are unless `blocks` names them."""
    if blocks is None:
        from tests.support.random_blocks import BLOCKS

        blocks = BLOCKS
    builder = Builder(source, source.choice((13, 17, 18, 21, 23)))
    inputs = _inputs(source)
    builder.pool.extend(inputs)
    for _ in range(size if size is not None else source.randint(1, 10)):
        source.choice(blocks)(builder)
    made = [value for value in builder.pool if value not in inputs]
    if not made:
        made = [builder.add("Identity", [inputs[0]], inputs[0].shape)]
    kept = source.sample(made, min(len(made), source.randint(1, 3)))
    if made[-1] not in kept:
        kept.append(made[-1])
    names = {value.name for value in kept}
    graph = helper.make_graph(
        builder.nodes,
        "g",
        [helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in inputs],
        [helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in kept],
        initializer=builder.initializers,
        value_info=[info for info in builder.value_info if info.name not in names],
    )
    imports = [helper.make_opsetid("", builder.opset)]
    if builder.functions:
        imports.append(helper.make_opsetid("local", 1))
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=imports, functions=builder.functions, ir_version=10 if builder.opset >= 21 else 8
    )
    return model


def _inputs(source: random.Random) -> list[Value]:
    width = source.choice((4, 6, 8))
    shapes: list[Shape] = [("N", "S", width), ("N", width), (2, 3, width), ("N", 4, 6, 6), (width,), (), (1, width)]
    shapes += [("N", 2, "S", 4), (2, 1, 3, 2, 2), ("S", width), ("N", 1, 1)]
    chosen = [("N", "S", width), *source.sample(shapes, source.randint(1, 3))]
    if source.random() < 0.3 and shapes[3] not in chosen:
        chosen.append(shapes[3])
    dtype = source.choice((FLOAT, FLOAT, FLOAT, FLOAT, DOUBLE, HALF))
    inputs = [Value(f"x{index}", dtype, shape, True) for index, shape in enumerate(chosen)]
    if source.random() < 0.4:
        inputs.append(Value("ids", INT64, ("N", "S"), True))
    if source.random() < 0.3:
        inputs.append(Value("flags", BOOL, ("N", "S"), True))
    return inputs


def feeds_of(model: onnx.ModelProto, *, jitter: float = 0.0) -> list[dict[str, np.ndarray]]:
    """Return inputs for each of LENGTHS; `jitter` moves every float by that share of itself."""
    found = []
    for seed, lengths in enumerate(LENGTHS):
        numbers = np.random.default_rng(seed)
        feed = {}
        for info in model.graph.input:
            tensor = info.type.tensor_type
            shape = [lengths[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if dtype == np.bool_:
                feed[info.name] = numbers.random(shape) < 0.7
            elif dtype.kind == "i":
                feed[info.name] = numbers.integers(0, 4, shape).astype(dtype)
            else:
                array = numbers.standard_normal(shape)
                feed[info.name] = np.asarray(array * (1 + jitter * numbers.standard_normal(shape))).astype(dtype)
        found.append(feed)
    return found
