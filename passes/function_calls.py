"""Which of a model's functions call which."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def circular_call(model: ir.Model) -> str:
    """Return the functions of a circle of calls, as "f -> g -> f"; empty where no function leads back to itself.

    ONNX forbids it: a call stands for the function's body, which then would have no end.
    """
    left = {
        key: [called for node in function.all_nodes() if (called := node.op_identifier()) in model.functions]
        for key, function in model.functions.items()
    }
    while ended := [key for key, calls in left.items() if not any(called in left for called in calls)]:
        for key in ended:
            del left[key]
    if not left:
        return ""
    path = [next(iter(left))]
    while (following := next(called for called in left[path[-1]] if called in left)) not in path:
        path.append(following)
    return " -> ".join(name for _, name, _ in (*path[path.index(following) :], following))
