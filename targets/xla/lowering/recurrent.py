"""LSTM, GRU and RNN: one scan over the steps for each direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers
from targets.xla.lowering.values import Unsupported

_Function = Callable[[Any], Any]
_Step = Callable[[Any, Any], Any]


def _activation(name: str, alpha: float | None, beta: float | None) -> _Function:
    """Return an activation function of ONNX's recurrent operators by its name there."""
    import jax
    import jax.numpy as jnp

    def either(value: float | None, default: float) -> float:
        return default if value is None else value

    table: dict[str, _Function] = {
        "relu": lambda x: jnp.maximum(x, 0),
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "softsign": lambda x: x / (1 + jnp.abs(x)),
        "softplus": jax.nn.softplus,
        "affine": lambda x: either(alpha, 1.0) * x + either(beta, 0.0),
        "leakyrelu": lambda x: jnp.where(x < 0, either(alpha, 0.01) * x, x),
        "thresholdedrelu": lambda x: jnp.where(x > either(alpha, 1.0), x, 0),
        "scaledtanh": lambda x: either(alpha, 1.0) * jnp.tanh(either(beta, 1.0) * x),
        "hardsigmoid": lambda x: jnp.clip(either(alpha, 0.2) * x + either(beta, 0.5), 0, 1),
        "elu": lambda x: jnp.where(x < 0, either(alpha, 1.0) * jnp.expm1(jnp.minimum(x, 0)), x),
    }
    if name.lower() not in table:
        raise Unsupported(f"the activation {name}")
    return table[name.lower()]


_TAKES_ALPHA = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
_TAKES_BETA = ("affine", "scaledtanh", "hardsigmoid")


def _activations(call: Call, names: list[str]) -> list[_Function]:
    """Return the functions in order; each that has an alpha or beta takes the next one of the attribute, if any."""
    alphas, betas = iter(call.numbers("activation_alpha") or ()), iter(call.numbers("activation_beta") or ())
    return [
        _activation(
            name,
            next(alphas, None) if name.lower() in _TAKES_ALPHA else None,
            next(betas, None) if name.lower() in _TAKES_BETA else None,
        )
        for name in names
    ]


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction's weights: w [G*H, I], r [G*H, H], bias of input and recurrence [G*H] each, peepholes [3*H]."""

    functions: list[_Function]
    w: Any
    r: Any
    bias_w: Any
    bias_r: Any
    peepholes: Any
    reverse: bool


def _directions(call: Call, gates: int, default: list[str], weights: tuple[Any, ...]) -> list[_Direction]:
    import jax.numpy as jnp

    w, r, bias, peepholes = weights
    kind = call.text("direction", "forward")
    count = 2 if kind == "bidirectional" else 1
    names = call.texts("activations") or default * count
    each = len(default)
    activations = _activations(call, names)
    found = []
    for number in range(count):
        functions = activations[number * each : (number + 1) * each]
        zeros = jnp.zeros((w.shape[1],), w.dtype)
        half = gates * call.integer("hidden_size", r.shape[2])
        bias_w = zeros if bias is None else bias[number][:half]
        bias_r = zeros if bias is None else bias[number][half:]
        hole = None if peepholes is None else peepholes[number]
        reverse = kind == "reverse" or number == 1
        found.append(_Direction(functions, w[number], r[number], bias_w, bias_r, hole, reverse))
    return found


def _run(
    call: Call,
    x: Any,
    lengths: Any,
    states: list[Any],
    directions: list[_Direction],
    make_step: Callable[[_Direction], _Step],
) -> tuple[Any, list[Any]]:
    """Return all hidden states [S, D, B, H] and each final state [D, B, H]; x is [S, B, I].

    The inputs' product with W is taken for all steps at once, before the scan. Past an entry's length its state is
    kept and its output is zero.
    """
    import jax.numpy as jnp
    from jax import lax

    steps = x.shape[0]
    outputs: list[Any] = []
    finals: list[list[Any]] = [[] for _ in states]
    index = jnp.arange(steps, dtype=jnp.int64)
    for number, direction in enumerate(directions):
        step = make_step(direction)
        projected = jnp.einsum("sbi,gi->sbg", x, direction.w) + direction.bias_w
        start = tuple(state[number] for state in states)

        def body(carry: Any, item: Any, step: _Step = step) -> tuple[Any, Any]:
            position, inputs = item
            new = step(inputs, carry)
            hidden = new[0]
            if lengths is not None:
                alive = (position < lengths)[:, None]
                hidden = jnp.where(alive, hidden, 0)
                new = tuple(jnp.where(alive, fresh, old) for fresh, old in zip(new, carry, strict=True))
            return new, hidden

        final, hidden = lax.scan(body, start, (index, projected), reverse=direction.reverse)
        outputs.append(hidden)
        for place, state in zip(finals, final, strict=True):
            place.append(state)
    return jnp.stack(outputs, axis=1), [jnp.stack(place) for place in finals]


def _recurrent(
    call: Call,
    x: Any,
    lengths: Any,
    initial: list[Any],
    directions: list[_Direction],
    make_step: Callable[[_Direction], _Step],
) -> Any:
    """Return Y [S, D, B, H] and the final states [D, B, H], batch first with layout=1."""
    import jax.numpy as jnp

    batch_first = bool(call.integer("layout"))
    x = jnp.asarray(x)
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    hidden = directions[0].r.shape[1]
    zeros = jnp.zeros((len(directions), x.shape[1], hidden), x.dtype)
    states = [
        zeros if state is None else jnp.swapaxes(state, 0, 1) if batch_first else jnp.asarray(state)
        for state in initial
    ]
    lengths = None if lengths is None else jnp.asarray(lengths)
    y, finals = _run(call, x, lengths, states, directions, make_step)
    if batch_first:
        y = jnp.transpose(y, (2, 0, 1, 3))
        finals = [jnp.swapaxes(state, 0, 1) for state in finals]
    results = (y, *finals)[: call.output_count]
    return results if call.output_count > 1 else y


def _clipped(call: Call, x: Any) -> Any:
    import jax.numpy as jnp

    limit = call.number("clip")
    return jnp.clip(x, -limit, limit) if limit else x


@lowers("LSTM", since=7)
def lstm(
    call: Call,
    x: Any,
    w: Any,
    r: Any,
    bias: Any = None,
    lengths: Any = None,
    hidden: Any = None,
    cell: Any = None,
    peepholes: Any = None,
) -> Any:
    """Gates are in ONNX's order: input, output, forget, cell."""
    import jax.numpy as jnp

    directions = _directions(call, 4, ["Sigmoid", "Tanh", "Tanh"], (w, r, bias, peepholes))

    def make_step(direction: _Direction) -> _Step:
        f, g, h = direction.functions
        hole_i, hole_o, hole_f = (0, 0, 0) if direction.peepholes is None else jnp.split(direction.peepholes, 3)

        def step(inputs: Any, state: Any) -> Any:
            old_hidden, old_cell = state
            gates = inputs + old_hidden @ direction.r.T + direction.bias_r  # [B, 4*H]
            i, o, forget, c = jnp.split(gates, 4, axis=-1)
            i = f(_clipped(call, i + hole_i * old_cell))
            forget = 1 - i if call.integer("input_forget") else f(_clipped(call, forget + hole_f * old_cell))
            new_cell = forget * old_cell + i * g(_clipped(call, c))
            o = f(_clipped(call, o + hole_o * new_cell))
            return (o * h(new_cell)).astype(inputs.dtype), new_cell.astype(inputs.dtype)

        return step

    return _recurrent(call, x, lengths, [hidden, cell], directions, make_step)


@lowers("GRU", since=7)
def gru(call: Call, x: Any, w: Any, r: Any, bias: Any = None, lengths: Any = None, hidden: Any = None) -> Any:
    """Gates are in ONNX's order: update, reset, hidden."""
    import jax.numpy as jnp

    directions = _directions(call, 3, ["Sigmoid", "Tanh"], (w, r, bias, None))

    def make_step(direction: _Direction) -> _Step:
        f, g = direction.functions
        r_gates, r_hidden = direction.r[: -direction.r.shape[1]], direction.r[-direction.r.shape[1] :]
        b_gates, b_hidden = direction.bias_r[: -direction.r.shape[1]], direction.bias_r[-direction.r.shape[1] :]

        def step(inputs: Any, state: Any) -> Any:
            (old,) = state
            size = old.shape[-1]
            z, reset = jnp.split(inputs[..., : 2 * size] + old @ r_gates.T + b_gates, 2, axis=-1)
            z, reset = f(_clipped(call, z)), f(_clipped(call, reset))
            if call.integer("linear_before_reset"):
                inner = reset * (old @ r_hidden.T + b_hidden)
            else:
                inner = (reset * old) @ r_hidden.T + b_hidden
            candidate = g(_clipped(call, inputs[..., 2 * size :] + inner))
            return (((1 - z) * candidate + z * old).astype(inputs.dtype),)

        return step

    return _recurrent(call, x, lengths, [hidden], directions, make_step)


@lowers("RNN", since=7)
def rnn(call: Call, x: Any, w: Any, r: Any, bias: Any = None, lengths: Any = None, hidden: Any = None) -> Any:
    directions = _directions(call, 1, ["Tanh"], (w, r, bias, None))

    def make_step(direction: _Direction) -> _Step:
        (f,) = direction.functions

        def step(inputs: Any, state: Any) -> Any:
            total = inputs + state[0] @ direction.r.T + direction.bias_r
            return (f(_clipped(call, total)).astype(inputs.dtype),)

        return step

    return _recurrent(call, x, lengths, [hidden], directions, make_step)
