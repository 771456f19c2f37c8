"""If, Loop and Scan, where the number and shape of results are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unknown, Unsupported, is_host, on_device

_UNROLLED = 16


@lowers("If", since=1)
def if_(call: Call, condition: Any) -> Any:
    """Return one branch's outputs: chosen at trace time when the condition is known, else while running."""
    import jax.numpy as jnp
    from jax import lax

    then, otherwise = call.graph("then_branch"), call.graph("else_branch")
    if is_host(condition) and condition.dtype != object:
        return _results(call.run_graph(then if bool(condition.reshape(())) else otherwise, ()))

    def branch(graph: Any) -> Any:
        return lambda: tuple(jnp.asarray(on_device(value)) for value in call.run_graph(graph, ()))

    try:
        return _results(lax.cond(jnp.reshape(condition, ()), branch(then), branch(otherwise)))
    except TypeError as error:
        raise Unsupported(f"the branches give different shapes or types: {error}") from error


def _results(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


@lowers("Loop", since=1)
def loop(call: Call, trips: Any = None, condition: Any = None, *state: Any) -> Any:
    """Return the final state, then the scan outputs.

    With a known trip count: unrolled when short and each iteration's condition is known, a scan when long and the
    condition stays true. Otherwise a while loop, which can't stack scan outputs: their number would depend on the data.
    """
    body = call.graph("body")
    if trips is not None and is_host(trips) and trips.dtype != object and _is_true(condition):
        count = int(trips.reshape(()))
        if count > _UNROLLED:
            if _condition_stays(call, body, state):
                return _results(_scanned(call, count, state))
        elif (results := _unrolled(call, count, state)) is not None:
            return _results(results)
    if len(body.outputs) - 1 > len(state):
        raise Unknown("the number of scan outputs depends on the data")
    return _results(_while(call, trips, condition, state))


def _is_true(condition: Any) -> bool:
    return condition is None or (is_host(condition) and bool(np.asarray(condition).reshape(())))


def _condition_stays(call: Call, body: Any, state: Sequence[Any]) -> bool:
    """Return whether the body's own condition is known to be true whatever the iteration's number and its state."""
    number, *current = (_shapes_only(value) for value in (np.asarray(0, np.int64), *state))
    kept = call.run_graph(body, (number, np.asarray(True), *current))[0]
    return is_host(kept) and bool(np.asarray(kept).reshape(()))


def _shapes_only(value: Any) -> Any:
    """Return a traced stand-in for a value, so that nothing in the body is decided by its content."""
    from jax import lax

    return lax.optimization_barrier(jnp_asarray(value))


def jnp_asarray(value: Any) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(on_device(value))


def _unrolled(call: Call, count: int, state: Sequence[Any]) -> list[Any] | None:
    """Return the results of the iterations one by one, or None where a condition depends on the data."""
    import jax.numpy as jnp

    body, current, stacked = call.graph("body"), list(state), []
    for number in range(count):
        kept, *results = call.run_graph(body, (np.asarray(number, np.int64), np.asarray(True), *current))
        current = results[: len(state)]
        stacked.append(results[len(state) :])
        if number + 1 == count:
            break
        if not is_host(kept) or kept.dtype == object:
            return None
        if not bool(kept.reshape(())):
            break
    if not stacked and len(body.outputs) - 1 > len(state):
        raise Unsupported("scan outputs of a loop that never runs")
    return [*current, *(jnp.stack([jnp_asarray(value) for value in values]) for values in zip(*stacked, strict=True))]


def _scanned(call: Call, count: int, state: Sequence[Any]) -> list[Any]:
    import jax.numpy as jnp
    from jax import lax

    body = call.graph("body")

    def step(carry: Any, number: Any) -> Any:
        _, *results = call.run_graph(body, (number, np.asarray(True), *carry))
        values = [jnp_asarray(value) for value in results]
        return tuple(values[: len(state)]), tuple(values[len(state) :])

    start = tuple(jnp_asarray(value) for value in state)
    final, stacked = lax.scan(step, start, jnp.arange(count, dtype=jnp.int64))
    return [*final, *stacked]


def _while(call: Call, trips: Any, condition: Any, state: Sequence[Any]) -> list[Any]:
    import jax.numpy as jnp
    from jax import lax

    body = call.graph("body")
    limit = jnp.asarray(np.iinfo(np.int64).max if trips is None else jnp_asarray(trips), jnp.int64).reshape(())
    going = jnp.asarray(True if condition is None else jnp_asarray(condition)).reshape(())

    def goes_on(carry: Any) -> Any:
        return jnp.logical_and(carry[0] < limit, carry[1])

    def step(carry: Any) -> Any:
        number, going, *values = carry
        kept, *results = call.run_graph(body, (number, going, *values))
        return (number + 1, jnp_asarray(kept).reshape(()), *(jnp_asarray(value) for value in results))

    start = (jnp.asarray(0, jnp.int64), going, *(jnp_asarray(value) for value in state))
    try:
        return list(lax.while_loop(goes_on, step, start)[2:])
    except TypeError as error:
        raise Unsupported(f"the loop's state changes its shape or type: {error}") from error


@lowers("Scan", since=9)
def scan(call: Call, *values: Any) -> Any:
    """Return the final states, then the stacked scan outputs."""
    import jax.numpy as jnp
    from jax import lax

    body, scanned = call.graph("body"), call.integer("num_scan_inputs")
    state, inputs = values[: len(values) - scanned], values[len(values) - scanned :]
    in_axes, in_reversed = call.integers("scan_input_axes"), call.integers("scan_input_directions")
    outputs = len(body.outputs) - len(state)
    out_axes, out_reversed = call.integers("scan_output_axes"), call.integers("scan_output_directions")
    sequences = []
    for position, value in enumerate(inputs):
        value = jnp.moveaxis(jnp_asarray(value), in_axes[position] if in_axes else 0, 0)
        sequences.append(jnp.flip(value, 0) if in_reversed and in_reversed[position] else value)

    def step(carry: Any, items: Any) -> Any:
        results = [jnp_asarray(value) for value in call.run_graph(body, (*carry, *items))]
        return tuple(results[: len(state)]), tuple(results[len(state) :])

    final, stacked = lax.scan(step, tuple(jnp_asarray(value) for value in state), tuple(sequences))
    results = []
    for position in range(outputs):
        value = stacked[position]
        value = jnp.flip(value, 0) if out_reversed and out_reversed[position] else value
        results.append(jnp.moveaxis(value, 0, out_axes[position]) if out_axes else value)
    return _results([*final, *results])
