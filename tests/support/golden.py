"""Golden texts of rewrites, in the manner of LLVM's FileCheck: ONNX text in, pipeline text, what must come out.

    assert_rewritten(before, "fuse-gelu", '''
        y = Gelu <approximate: string = "none"> (x)
    ''')
    assert_lines(before, "fuse-attention", '''
        CHECK:      [[q]] = MatMul (x, wq)
        CHECK:      [[a]] = Attention <{{.*}}> ([[q]], {{.*}})
        CHECK-NEXT: y = MatMul ([[a]], wo)
        CHECK-NOT:  Softmax
        CHECK-COUNT-2: MatMul
    ''')
    assert_refused(before, "fuse-gelu", "also feeds")

All three also run the graph before and after in ONNX Runtime without its optimizations and compare the outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from passes.base import Context, PassResult
from passes.capabilities import PORTABLE, Capabilities
from passes.comparison import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, difference
from passes.execution import run_model
from passes.observers import CheckStructure
from passes.parse import pipeline_from_text
from passes.sample_inputs import generated_inputs
from tests.support.rewriting import add_weights, graph_from

_DIRECTIVE = re.compile(r"(CHECK(?:-NEXT|-NOT|-COUNT-(\d+))?):\s*(.*)")
_HOLE = re.compile(r"\[\[(\w+)\]\]|\{\{(.*?)\}\}")
_SHOWN_ELEMENTS = 8

Weights = Mapping[str, np.ndarray]


def transformed(
    before: str | ir.Model,
    pipeline: str,
    *,
    weights: Weights | None = None,
    opset: int = 23,
    domains: str = "",
    capabilities: Capabilities = PORTABLE,
    feeds: tuple[Mapping[str, np.ndarray], ...] | None = None,
    is_exact: bool = False,
    is_run: bool = True,
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """Return the graph of `before` after `pipeline`, and one result a pass; outputs and structure have been checked.

    `weights` turns inputs of the text into initializers. `is_run=False` skips the runs, for operators that ONNX Runtime
    lacks on this machine; say why at the call.
    """
    model = before if isinstance(before, ir.Model) else graph_from(before, opset=opset, domains=domains)
    add_weights(model, **dict(weights or {}))
    steps = pipeline_from_text(pipeline)
    after, results = steps.run(model, context=Context(capabilities), observers=[CheckStructure()])
    for old, new in zip(
        (*model.graph.inputs, *model.graph.outputs), (*after.graph.inputs, *after.graph.outputs), strict=True
    ):
        assert (old.name, old.type, old.shape) == (new.name, new.type, new.shape), "the signature changed"
    if is_run:
        feeds = generated_inputs(model) if feeds is None else feeds
        relative, absolute = (0.0, 0.0) if is_exact else (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
        for first, second in zip(run_model(model, feeds), run_model(after, feeds), strict=True):
            assert difference(first, second, relative=relative, absolute=absolute) == ""
    again, _ = steps.run(after, context=Context(capabilities))
    assert graph_text(again) == graph_text(after), "a second run changes the graph"
    return after, results


def assert_rewritten(before: str | ir.Model, pipeline: str, expected: str, **options: object) -> None:
    """Fail unless the graph's lines after `pipeline` are exactly `expected`, white space aside; see `graph_text`."""
    after, _ = transformed(before, pipeline, **options)  # type: ignore[arg-type]
    actual, wanted = _lines(graph_text(after)), _lines(expected)
    assert actual == wanted, "the graph is now:\n" + graph_text(after)


def assert_lines(before: str | ir.Model, pipeline: str, expected: str, **options: object) -> None:
    """Fail unless the CHECK lines of `expected` match the graph's lines after `pipeline`, in order."""
    after, _ = transformed(before, pipeline, **options)  # type: ignore[arg-type]
    match_lines(graph_text(after), expected)


def assert_refused(before: str | ir.Model, pipeline: str, reason: str, **options: object) -> None:
    """Fail unless `pipeline` applies nothing and refuses at least once, for a reason that contains `reason`."""
    _, results = transformed(before, pipeline, **options)  # type: ignore[arg-type]
    applied = [event for result in results for event in result.applied]
    assert applied == []
    reasons = [event.reason for result in results for event in result.refused]
    assert any(reason in text for text in reasons), f"'{reason}' is in none of {reasons}"


def graph_text(model: ir.Model) -> str:
    """Return one line a constant, then the nodes as ONNX text: no names of nodes, no types of inner values.

    Constants of up to 8 elements show them (`half = float {0.5}`), larger ones their type (`w = float[8,16]`).
    """
    copy = model.clone()
    lines = []
    for graph in copy.graphs():
        for name, value in graph.initializers.items():
            lines.append(f"{name} = {_constant_text(value)}")
        graph.initializers.clear()
        for node in graph:
            node.name = None
            node.metadata_props.clear()
    text = ir.to_onnx_text(_without_inner_types(copy))
    rows = text.splitlines()
    start = next(index for index, row in enumerate(rows) if row.endswith("{"))
    return "\n".join([*lines, *_lines("\n".join(rows[start + 1 : rows.index("}", start)]))])


def _without_inner_types(model: ir.Model) -> ir.Model:
    for graph in model.graphs():
        kept = {*graph.inputs, *graph.outputs}
        for node in graph:
            for value in node.outputs:
                if value not in kept:
                    value.type, value.shape = None, None
    return model


def _constant_text(value: ir.Value) -> str:
    tensor = value.const_value
    assert tensor is not None
    dims = ",".join(map(str, tensor.shape.numpy()))
    kind = f"{tensor.dtype.name.lower()}[{dims}]" if dims else tensor.dtype.name.lower()
    if tensor.size > _SHOWN_ELEMENTS:
        return kind
    elements = [element.decode() if isinstance(element, bytes) else f"{element}" for element in tensor.numpy().flat]
    return f"{kind} {{{', '.join(elements)}}}"


def _lines(text: str) -> list[str]:
    return [line for line in (" ".join(line.split()) for line in text.splitlines()) if line]


def match_lines(text: str, directives: str) -> None:
    """Fail unless `text` matches the CHECK lines, each a part of one line of the text.

    `[[name]]` takes one identifier the first time and must equal it afterwards; `{{regex}}` is a regular expression.
    CHECK finds the next matching line, CHECK-NEXT wants the very next one; CHECK-NOT forbids the pattern in the whole
    text, CHECK-COUNT-N wants exactly N lines of the whole text to match.
    """
    lines = _lines(text)
    names: dict[str, str] = {}
    at = 0
    checks = [_DIRECTIVE.fullmatch(line) for line in _lines(directives)]
    assert checks, "there are no CHECK lines"
    for number, check in enumerate(checks, 1):
        assert check is not None, f"line {number} is no CHECK line"
        kind, count, wanted = check.groups()
        assert wanted, f"line {number} checks nothing"
        pattern = _pattern(wanted, names)
        where = f"{kind} '{wanted}' (with {names}) in:\n" + "\n".join(lines)
        if kind == "CHECK-NOT":
            assert not any(pattern.search(line) for line in lines), f"found {where}"
        elif count is not None:
            found = sum(1 for line in lines if pattern.search(line))
            assert found == int(count), f"{found} times {where}"
        else:
            last = at + 1 if kind == "CHECK-NEXT" else len(lines)
            index, match = next(
                ((i, match) for i in range(at, min(last, len(lines))) if (match := pattern.search(lines[i]))), (0, None)
            )
            assert match is not None, f"after line {at}, no {where}"
            names.update({key: value for key, value in match.groupdict().items() if value is not None})
            at = index + 1


def _pattern(wanted: str, names: Mapping[str, str]) -> re.Pattern[str]:
    parts, end, new = [], 0, set()
    for hole in _HOLE.finditer(wanted):
        parts.append(re.escape(wanted[end : hole.start()]))
        name, expression = hole.groups()
        if expression is not None:
            parts.append(f"(?:{expression})")
        elif name in names:
            parts.append(re.escape(names[name]))
        elif name in new:
            parts.append(f"(?P={name})")
        else:
            new.add(name)
            parts.append(rf"(?P<{name}>[^\s,()<>]+)")
        end = hole.end()
    parts.append(re.escape(wanted[end:]))
    return re.compile(rf"(?<![^\s,()<>=]){''.join(parts)}(?![^\s,()<>=])")
