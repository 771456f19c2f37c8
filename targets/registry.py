"""All targets: the built-in ones, then those of the entry-point group `graphwright.targets`."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points

from passes.errors import UsageError
from targets.base import Target

ENTRY_POINT_GROUP = "graphwright.targets"
BUILT_IN: tuple[tuple[str, str], ...] = (
    ("onnxruntime", "targets.onnxruntime.target:OnnxRuntimeTarget"),
    ("openvino", "targets.openvino.target:OpenVinoTarget"),
    ("xla", "targets.xla.target:XlaTarget"),
    ("tensorrt", "targets.tensorrt.target:TensorRtTarget"),
)


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A third-party target that could not be loaded, and why."""

    name: str
    reason: str


def load_targets() -> tuple[dict[str, Target], tuple[BrokenPlugin, ...]]:
    """Return every target by name, and the plug-ins that failed to load; one broken plug-in does not stop the rest."""
    targets: dict[str, Target] = {name: _load(path) for name, path in BUILT_IN}
    broken: list[BrokenPlugin] = []
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        if entry.name in targets:
            broken.append(BrokenPlugin(entry.name, "a target of this name exists already"))
            continue
        try:
            target = entry.load()()
            if not isinstance(target, Target):
                raise TypeError("it lacks methods of targets.base.Target")
            targets[entry.name] = target
        except Exception as error:  # a plug-in may fail in any way; it is reported, not raised
            broken.append(BrokenPlugin(entry.name, f"{type(error).__name__}: {error}"))
    return targets, tuple(broken)


def get_target(name: str) -> Target:
    """Return one target.

    Raises UsageError for an unknown name, with near ones and all, and for a broken plug-in with the reason.
    """
    built_in = dict(BUILT_IN)
    if name in built_in:
        return _load(built_in[name])
    targets, broken = load_targets()
    if name in targets:
        return targets[name]
    for plugin in broken:
        if plugin.name == name:
            raise UsageError(f"The target '{name}' is broken: {plugin.reason}")
    near = difflib.get_close_matches(name, targets, n=2)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    hint = f"{meant}Targets: {', '.join(targets)}."
    raise UsageError(f"There is no target '{name}'.", hint=hint)


def _load(path: str) -> Target:
    module, _, name = path.partition(":")
    target: Target = getattr(importlib.import_module(module), name)()
    return target
