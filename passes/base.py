"""The pass contract: what a pass is given, and what it says that it did and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from passes.capabilities import PORTABLE, Capabilities

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.quantize.ranges import ActivationRange
    from passes.quantize.weight_only.statistics import InputStatistics


@dataclass(frozen=True, slots=True)
class Event:
    """A rewrite that was made, or a near match that was refused with its reason."""

    rule: str
    node: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass did to one graph."""

    name: str
    applied: tuple[Event, ...] = ()
    refused: tuple[Event, ...] = ()


@dataclass(slots=True)
class Budget:
    """How many more rewrites may be made; None is without end. Shared by all passes of one run (`--limit`)."""

    left: int | None = None

    def take(self) -> bool:
        """Return whether one more rewrite may be made, and count it."""
        if self.left is None:
            return True
        if self.left <= 0:
            return False
        self.left -= 1
        return True

    @property
    def is_spent(self) -> bool:
        return self.left is not None and self.left <= 0


@dataclass(frozen=True, slots=True)
class Context:
    """The facts that a pass may read besides the graph.

    ranges: calibrated ranges by value name, for the quantization passes; empty when nothing was calibrated.
    moments: the second moments of what weights multiply, by value name, for the weight-only methods that need samples.
    """

    capabilities: Capabilities = PORTABLE
    budget: Budget = field(default_factory=Budget)
    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    moments: Mapping[str, InputStatistics] = field(default_factory=dict)

    def recorder(self, name: str) -> Recorder:
        """Return the record that a pass called `name` writes its rewrites and refusals into."""
        return Recorder(name=name, budget=self.budget)


@dataclass(slots=True)
class Recorder:
    """A pass's running record. Ask `may_apply` right before each rewrite: it counts against the budget."""

    name: str
    budget: Budget
    applied: list[Event] = field(default_factory=list)
    refused: list[Event] = field(default_factory=list)

    def may_apply(self, node: ir.Node | str, rule: str = "") -> bool:
        """Return whether the rewrite at `node` may be made, and record it as made."""
        if not self.budget.take():
            return False
        self.applied.append(Event(rule=rule or self.name, node=node_label(node)))
        return True

    def refuse(self, node: ir.Node | str, reason: str, rule: str = "") -> None:
        """Record a near match that was left alone, and why."""
        self.refused.append(Event(rule=rule or self.name, node=node_label(node), reason=reason))

    def result(self) -> PassResult:
        return PassResult(self.name, tuple(self.applied), tuple(self.refused))


def node_label(node: ir.Node | str) -> str:
    """Return the name that a user can find the node by: its own, or its first output's."""
    if isinstance(node, str):
        return node
    return node.name or next((str(value.name) for value in node.outputs if value.name), node.op_type)


@dataclass(frozen=True)
class Pass:
    """One rewrite of the graph, edited in place on the pipeline's copy.

    A subclass is a frozen dataclass; its fields are its options in pipeline text. `optional` passes may be left out
    without making the result wrong.
    """

    name: ClassVar[str]
    optional: ClassVar[bool] = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Rewrite `model` in place and return what was applied and refused."""
        raise AssertionError(f"{type(self).__name__} does not implement run")

    def __str__(self) -> str:
        changed = [
            f"{option.name}={option_text(getattr(self, option.name))}"
            for option in fields(self)
            if getattr(self, option.name) != option.default
        ]
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name


_PLAIN_SIGNS = "/:.;@!$&'()*+?#<>|^~="
"""Signs that stand as they are in the entries of a list; others are written %2C and the like."""


def option_text(value: object) -> str:
    """Return an option's value as pipeline text."""
    if isinstance(value, tuple):
        return f"[{','.join(quote(str(entry), safe=_PLAIN_SIGNS) for entry in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
