"""Finding targets: the built-in ones, third-party ones, and broken third-party ones."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import targets.registry as registry
from passes.errors import UsageError
from targets.onnxruntime.target import OnnxRuntimeTarget
from targets.registry import BUILT_IN, ENTRY_POINT_GROUP, get_target, load_targets


class Elsewhere(OnnxRuntimeTarget):
    """A third-party target that keeps the contract."""

    name = "elsewhere"


class Halfway:
    """A third-party target that lacks most of the contract."""

    name = "halfway"


def raises() -> None:
    raise RuntimeError("it does not start")


PLUGINS = [
    EntryPoint("elsewhere", f"{__name__}:Elsewhere", ENTRY_POINT_GROUP),
    EntryPoint("halfway", f"{__name__}:Halfway", ENTRY_POINT_GROUP),
    EntryPoint("failing", f"{__name__}:raises", ENTRY_POINT_GROUP),
    EntryPoint("absent", "no_such_module_anywhere:Target", ENTRY_POINT_GROUP),
    EntryPoint("openvino", f"{__name__}:Elsewhere", ENTRY_POINT_GROUP),
]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch):
    loaded = {"elsewhere": Elsewhere, "halfway": Halfway, "failing": raises}

    class Entry:
        def __init__(self, entry: EntryPoint) -> None:
            self.name, self.entry = entry.name, entry

        def load(self) -> object:
            return loaded[self.name] if self.name in loaded else self.entry.load()

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry(entry) for entry in PLUGINS])


def test_built_in_targets_load_by_their_names():
    for name, _ in BUILT_IN:
        assert get_target(name).name == name
    assert set(dict(BUILT_IN)) <= set(load_targets()[0])


def test_broken_plugins_are_reported_and_stop_nobody(plugins: None):
    targets, broken = load_targets()
    assert set(targets) == {*dict(BUILT_IN), "elsewhere"}
    reasons = {plugin.name: plugin.reason for plugin in broken}
    assert set(reasons) == {"halfway", "failing", "absent", "openvino"}
    assert "lacks methods" in reasons["halfway"]
    assert "it does not start" in reasons["failing"]
    assert "no_such_module_anywhere" in reasons["absent"]
    assert "exists already" in reasons["openvino"]


def test_a_third_party_target_is_found(plugins: None):
    assert isinstance(get_target("elsewhere"), Elsewhere)


def test_a_third_party_target_does_not_replace_a_built_in_one(plugins: None):
    assert type(get_target("openvino")).__name__ == "OpenVinoTarget"


def test_asking_for_a_broken_plugin_gives_its_reason(plugins: None):
    with pytest.raises(UsageError, match="'failing' is broken: RuntimeError: it does not start"):
        get_target("failing")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("open-vino", "Did you mean openvino? "),
        ("tensort", "Did you mean tensorrt? "),
        ("nope", "Targets: onnxruntime, "),
    ],
)
def test_unknown_names_list_near_ones(name: str, hint: str):
    with pytest.raises(UsageError) as refused:
        get_target(name)
    assert refused.value.hint.startswith(hint)
    assert "openvino, xla, tensorrt" in refused.value.hint
