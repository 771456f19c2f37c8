"""The expressions that exporters and authors write for an activation function, by the operator that says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from passes.fusion.forms import Any, Form, Number, Op, is_near

X = Any("x")
Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Activation:
    """An operator of one input, the opset that has it, and a form that computes it.

    attributes: returns the operator's attributes from the form's numbers, or None where those do not fit.
    """

    op_type: str
    opset: int
    form: Op
    attributes: Callable[[Numbers], dict[str, float] | None] = lambda numbers: {}


def _relu_clips(value: Form, high: Form) -> tuple[Op, ...]:
    """Return the ways to keep a value between 0 and a constant; an inner max(v, 0) is a Relu when it is read."""
    return (
        Op("Clip", (value, Number(0.0), high)),
        Op("Min", (Op("Relu", (value,)), high)),
        Op("Relu", (Op("Min", (value, high)),)),
        Op("Max", (Op("Min", (value, high)), Number(0.0))),
    )


def _hard_sigmoid() -> Iterator[Activation]:
    shifted = Op("Add", (X, Number(name="shift")))
    lines = (
        (Op("Add", (Op("Mul", (X, Number(name="slope"))), Number(name="shift"))), False),
        (Op("Add", (Op("Div", (X, Number(name="slope"))), Number(name="shift"))), True),
    )
    for line, is_divided in lines:
        for form in _relu_clips(line, Number(1.0)):
            yield Activation("HardSigmoid", 6, form, _divided_line if is_divided else _line)
    for clip in _relu_clips(shifted, Number(name="top")):
        yield Activation("HardSigmoid", 6, Op("Div", (clip, Number(name="by"))), _step_divided)
        yield Activation("HardSigmoid", 6, Op("Mul", (clip, Number(name="by"))), _step_multiplied)


def _line(numbers: Numbers) -> dict[str, float] | None:
    return {"alpha": numbers["slope"], "beta": numbers["shift"]}


def _divided_line(numbers: Numbers) -> dict[str, float] | None:
    return {"alpha": 1 / numbers["slope"], "beta": numbers["shift"]} if numbers["slope"] else None


def _step_divided(numbers: Numbers) -> dict[str, float] | None:
    """clip(x + shift, 0, top) / top is max(0, min(1, x / top + shift / top))."""
    top = numbers["top"]
    fits = top > 0 and is_near(numbers["by"], top)
    return {"alpha": 1 / top, "beta": numbers["shift"] / top} if fits else None


def _step_multiplied(numbers: Numbers) -> dict[str, float] | None:
    return _step_divided({**numbers, "by": 1 / numbers["by"]}) if numbers["by"] else None


def _hard_swish() -> Iterator[Activation]:
    hard_sigmoid = Op("HardSigmoid", (X,), {"alpha": (0.2, 1 / 6), "beta": (0.5, 0.5)})
    yield Activation("HardSwish", 14, Op("Mul", (X, hard_sigmoid)))
    for clip in _relu_clips(Op("Add", (X, Number(3.0))), Number(6.0)):
        yield Activation("HardSwish", 14, Op("Div", (Op("Mul", (X, clip)), Number(6.0))))
        yield Activation("HardSwish", 14, Op("Mul", (Op("Mul", (X, clip)), Number(1 / 6))))
        yield Activation("HardSwish", 14, Op("Mul", (Op("Div", (X, Number(6.0))), clip)))
        yield Activation("HardSwish", 14, Op("Mul", (Op("Mul", (X, Number(1 / 6))), clip)))


def _smooth() -> Iterator[Activation]:
    yield Activation("Mish", 18, Op("Mul", (X, Op("Tanh", (Op("Softplus", (X,)),)))))
    growing = Op("Exp", (Op("Neg", (X,)),))
    denominator = Op("Add", (Number(1.0), growing))
    yield Activation("Sigmoid", 6, Op("Div", (Number(1.0), denominator)))
    yield Activation("Sigmoid", 6, Op("Reciprocal", (denominator,)))
    yield Activation("Swish", 24, Op("Div", (X, denominator)))
    yield Activation("Swish", 24, Op("Mul", (X, Op("Sigmoid", (X,)))))
    scaled = Op("Sigmoid", (Op("Mul", (X, Number(name="alpha"))),))
    yield Activation("Swish", 24, Op("Mul", (X, scaled)), lambda numbers: {"alpha": numbers["alpha"]})
    yield Activation("Softsign", 1, Op("Div", (X, Op("Add", (Number(1.0), Op("Abs", (X,)))))))


def _leaky() -> Iterator[Activation]:
    scaled = Op("Mul", (X, Number(name="alpha")))
    yield Activation("LeakyRelu", 6, Op("Max", (X, scaled)), _at_most_one)
    for test, branches in (
        (Op("Greater", (X, Number(0.0))), (X, scaled)),
        (Op("GreaterOrEqual", (X, Number(0.0))), (X, scaled)),
        (Op("Less", (X, Number(0.0))), (scaled, X)),
        (Op("LessOrEqual", (X, Number(0.0))), (scaled, X)),
    ):
        yield Activation("LeakyRelu", 6, Op("Where", (test, *branches)), _alpha)
    less_one = Op("Mul", (Number(name="alpha"), Op("Sub", (Op("Exp", (X,)), Number(1.0)))))
    for above in ("Greater", "GreaterOrEqual"):
        yield Activation("Elu", 6, Op("Where", (Op(above, (X, Number(0.0))), X, less_one)), _alpha)
        unscaled = Op("Sub", (Op("Exp", (X,)), Number(1.0)))
        yield Activation("Elu", 6, Op("Where", (Op(above, (X, Number(0.0))), X, unscaled)))


def _of_two_parts() -> Iterator[Activation]:
    """max(x, 0) + min(a (exp(x / b) - 1), 0) is Elu where b is 1, and Celu where a is b."""
    for argument, op_type, opset, attributes in (
        (X, "Elu", 6, _positive_alpha),
        (Op("Div", (X, Number(name="by"))), "Celu", 12, _celu),
        (Op("Mul", (X, Number(name="times"))), "Celu", 12, _celu),
    ):
        unscaled = Op("Sub", (Op("Exp", (argument,)), Number(1.0)))
        below = Op("Min", (Op("Mul", (Number(name="alpha"), unscaled)), Number(0.0)))
        yield Activation(op_type, opset, Op("Add", (Op("Relu", (X,)), below)), attributes)
    plain = Op("Min", (Op("Sub", (Op("Exp", (X,)), Number(1.0))), Number(0.0)))
    yield Activation("Elu", 6, Op("Add", (Op("Relu", (X,)), plain)))


def _positive_alpha(numbers: Numbers) -> dict[str, float] | None:
    """A negative factor turns the sign, so that the smaller of the product and 0 is another branch."""
    return _alpha(numbers) if numbers["alpha"] > 0 else None


def _celu(numbers: Numbers) -> dict[str, float] | None:
    by = numbers["by"] if "by" in numbers else 1 / (numbers["times"] or math.inf)
    return _positive_alpha(numbers) if is_near(by, numbers["alpha"]) else None


def _alpha(numbers: Numbers) -> dict[str, float] | None:
    return {"alpha": numbers["alpha"]}


def _at_most_one(numbers: Numbers) -> dict[str, float] | None:
    """max(x, alpha * x) is the leaky unit only for slopes between 0 and 1."""
    return _alpha(numbers) if 0 < numbers["alpha"] <= 1 else None


def _rectified() -> Iterator[Activation]:
    yield Activation("Relu", 6, Op("Max", (X, Number(0.0))))
    yield Activation("Relu", 6, Op("Clip", (X, Number(0.0))))


ACTIVATIONS: tuple[Activation, ...] = (
    *_hard_swish(),
    *_hard_sigmoid(),
    *_smooth(),
    *_leaky(),
    *_of_two_parts(),
    *_rectified(),
)
"""In the order in which they are tried at one node: the longer form before the one that it contains."""
