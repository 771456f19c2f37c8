"""Evaluating one node on constants, with the size of its result known before it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passes.matching import constant_tensor

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

# Operators whose result cannot have more elements than the largest input (times the factor), although its shape
# depends on the data.
_BOUNDED_BY_INPUT = {"Compress": 1, "NonZero": 64, "Unique": 8}


class NotEvaluated(Exception):
    """A node is too large to evaluate, or the evaluator failed; the text says which."""


def evaluate(node: ir.Node, opset: int, *, max_bytes: int) -> list[np.ndarray | None]:
    """Return the outputs of a node whose inputs are all constant; None for an output that is left out.

    Raises NotEvaluated before anything is read when an input or a result is over `max_bytes`.
    """
    tensors = [constant_tensor(value) for value in node.inputs]
    largest = max((tensor.nbytes for tensor in tensors if tensor is not None), default=0)
    if largest > max_bytes:
        raise NotEvaluated(f"an input has {largest} bytes, over max_bytes={max_bytes}")
    feeds = {f"i{index}": tensor for index, tensor in enumerate(tensors) if tensor is not None}
    proto = _node_proto(node, tensors)
    expected = _expected(node, proto, feeds, opset)
    size = _size_bytes(expected)
    if size is None:
        factor = _BOUNDED_BY_INPUT.get(node.op_type)
        if factor is None:
            raise NotEvaluated("the size of the result is not known beforehand")
        size = factor * largest
    if size > max_bytes:
        raise NotEvaluated(f"the result has {size} bytes, over max_bytes={max_bytes}")
    return _run(node, proto, {name: tensor.numpy() for name, tensor in feeds.items()}, expected, opset)


def _node_proto(node: ir.Node, tensors: list[Any]) -> onnx.NodeProto:
    import onnx
    import onnx_ir as ir

    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    proto.input.extend("" if tensor is None else f"i{index}" for index, tensor in enumerate(tensors))
    proto.output.extend(f"o{index}" if output.name != "" else "" for index, output in enumerate(node.outputs))
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    return proto


def _expected(node: ir.Node, proto: onnx.NodeProto, feeds: dict[str, Any], opset: int) -> dict[str, Any]:
    """Return the inferred TypeProto of each output; raises NotEvaluated where onnx cannot infer."""
    import onnx
    from onnx.shape_inference import infer_node_outputs

    types, data = {}, {}
    for name, tensor in feeds.items():
        if tensor.dtype.is_string():
            raise NotEvaluated("string tensors are not folded")
        types[name] = onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape.numpy())
        if tensor.nbytes <= 65536:
            data[name] = onnx.TensorProto(
                data_type=int(tensor.dtype), dims=tensor.shape.numpy(), raw_data=tensor.tobytes()
            )
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        return dict(infer_node_outputs(schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid("", opset)]))
    except Exception as error:
        raise NotEvaluated(f"its result cannot be inferred: {str(error).splitlines()[0]}") from error


def _size_bytes(expected: dict[str, Any]) -> int | None:
    import onnx_ir as ir

    if not expected:
        return None
    size = 0.0
    for kind in expected.values():
        tensor = kind.tensor_type
        if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
            return None
        count = 1
        for dim in tensor.shape.dim:
            if not dim.HasField("dim_value"):
                return None
            count *= dim.dim_value
        size += count * ir.DataType(tensor.elem_type).itemsize
    return int(size)


def _run(
    node: ir.Node, proto: onnx.NodeProto, arrays: dict[str, np.ndarray], expected: dict[str, Any], opset: int
) -> list[np.ndarray | None]:
    import numpy as np
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    names = [name for name in proto.output if name]
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in arrays.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in names],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = dict(zip(names, ReferenceEvaluator(model).run(names, arrays), strict=True))
    except Exception as error:
        raise NotEvaluated(f"the evaluator failed: {type(error).__name__}: {error}") from error
    for name, result in results.items():
        kind = expected[name].tensor_type
        if not isinstance(result, np.ndarray):
            raise NotEvaluated("the evaluator gave something else than a tensor")
        wanted = ir.DataType(kind.elem_type).numpy()
        dims = [dim.dim_value for dim in kind.shape.dim]
        fixed = all(dim.HasField("dim_value") for dim in kind.shape.dim) and kind.HasField("shape")
        if result.dtype != wanted or (fixed and list(result.shape) != dims):
            raise NotEvaluated(f"the evaluator gave {result.dtype}{list(result.shape)}, not {wanted}{dims}")
    return [results.get(name) if name else None for name in proto.output]
