"""The contract suite itself: each planted fault of a target turns it red."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from targets.base import Artifact, BuildOptions, Readiness
from targets.manifest import write_manifest
from targets.onnxruntime.target import OnnxRuntimeTarget
from tests.support.small_models import SMALL_MODELS
from tests.targets import test_contract as contract


@dataclasses.dataclass
class WrappedRunner:
    inner: object
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    check: bool = True

    def __call__(self, feeds):
        if not self.check:
            feeds = {spec.name: np.zeros([1 if not isinstance(d, int) else d for d in spec.shape], spec.dtype)
                     for spec in self.inner.inputs}  # fmt: skip
        return self.change(self.inner(feeds))


class Faulty(OnnxRuntimeTarget):
    """The ONNX Runtime target with one fault: `change` to every output, or as a subclass says."""

    change = staticmethod(lambda outputs: outputs)
    checks_inputs = True

    @contextmanager
    def open(self, artifact: Artifact, *, threads: int = 1) -> Iterator[WrappedRunner]:
        with super().open(artifact, threads=threads) as runner:
            yield WrappedRunner(runner, self.change, self.checks_inputs)


class FlipsSign(Faulty):
    change = staticmethod(lambda outputs: {name: -array for name, array in outputs.items()})


class ScalesByOnePercent(Faulty):
    change = staticmethod(lambda outputs: {name: array * np.float32(1.01) for name, array in outputs.items()})


class DropsAnOutput(Faulty):
    change = staticmethod(lambda outputs: dict(list(outputs.items())[:-1]))


class ChangesType(Faulty):
    change = staticmethod(lambda outputs: {name: array.astype(np.float64) for name, array in outputs.items()})


class GivesNan(Faulty):
    change = staticmethod(lambda outputs: {name: array * np.float32("nan") for name, array in outputs.items()})


class ReusesMemory(Faulty):
    kept: dict[str, np.ndarray] = {}  # noqa: RUF012

    @staticmethod
    def change(outputs):
        for name, array in outputs.items():
            same = ReusesMemory.kept.get(name)
            if same is None or same.shape != array.shape:
                ReusesMemory.kept[name] = array
        return dict(ReusesMemory.kept)


@pytest.fixture
def build(tmp_path: Path):
    return lambda target, name: contract.build_fresh(target, name, tmp_path)


@pytest.mark.parametrize("kind", [FlipsSign, ScalesByOnePercent, DropsAnOutput, ChangesType, GivesNan, ReusesMemory])
def test_wrong_outputs_are_found(kind: type[Faulty], build):
    with pytest.raises(AssertionError):
        contract.test_equals_the_unoptimized_graph_at_sizes_that_were_not_built_for(kind(), build, "mlp")


def test_unchecked_inputs_are_found(build):
    class TakesAnything(Faulty):
        checks_inputs = False

    with pytest.raises(pytest.fail.Exception, match="accepted: missing"):
        contract.test_refuses_wrong_inputs(TakesAnything(), build)


def test_a_raising_probe_is_found(monkeypatch: pytest.MonkeyPatch):
    class Raises(Faulty):
        def probe(self) -> Readiness:
            __import__("importlib").import_module("anything")
            return super().probe()

    with pytest.raises(ImportError):
        contract.test_probe_never_raises(Raises(), monkeypatch)


def test_unchecked_settings_are_found():
    class ChecksNothing(Faulty):
        def check(self, options: BuildOptions) -> None:
            return None

    with pytest.raises(pytest.fail.Exception):
        contract.test_refuses_unknown_settings(ChecksNothing(), "no_such_setting")
    with pytest.raises(pytest.fail.Exception):
        contract.test_refuses_unknown_precision(ChecksNothing())


class Rebuilt(Faulty):
    """Leaves something else in the folder after each build."""

    def build(self, model, out, options):
        artifact = super().build(model, out, options)
        return self.spoil(artifact)

    def spoil(self, artifact: Artifact) -> Artifact:
        return artifact


def test_a_stray_file_is_found(build):
    class LeavesAFile(Rebuilt):
        def spoil(self, artifact):
            (artifact.path / "stray.tmp").write_text("")
            return artifact

    with pytest.raises(AssertionError):
        contract.test_manifest_is_complete(LeavesAFile(), build, "mlp")


@pytest.mark.parametrize("name", ["notes.txt", "deep/model.bin"])
def test_a_path_in_any_file_is_found(build, name: str):
    class NamesItsFolder(Rebuilt):
        def spoil(self, artifact):
            path = artifact.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\xff" + str(path).encode())
            return artifact

    with pytest.raises(AssertionError):
        contract.test_names_no_path_of_the_building_machine(NamesItsFolder(), build)


def test_another_name_of_an_input_is_found(build):
    class Renames(Rebuilt):
        def spoil(self, artifact):
            inputs = tuple(dataclasses.replace(spec, name="renamed") for spec in artifact.manifest.inputs)
            manifest = dataclasses.replace(artifact.manifest, inputs=inputs)
            write_manifest(artifact.path, manifest)
            return Artifact(artifact.path, manifest)

    with pytest.raises(AssertionError):
        contract.test_manifest_is_complete(Renames(), build, "mlp")


def test_a_time_in_the_manifest_is_found(build, tmp_path_factory):
    class Counts(Rebuilt):
        builds = 0

        def spoil(self, artifact):
            Counts.builds += 1
            manifest = dataclasses.replace(artifact.manifest, details={"built": Counts.builds})
            write_manifest(artifact.path, manifest)
            return Artifact(artifact.path, manifest)

    with pytest.raises(AssertionError):
        contract.test_rebuilds_byte_for_byte(Counts(), build, tmp_path_factory.mktemp("second"))


def test_an_unverified_file_is_found(build, tmp_path_factory):
    class LooksAway(Faulty):
        @contextmanager
        def open(self, artifact, *, threads=1):
            yield None

    with pytest.raises(pytest.fail.Exception):
        contract.test_refuses_changed_files(LooksAway(), build, tmp_path_factory.mktemp("copies"))


def test_a_changed_graph_is_found(tmp_path: Path):
    class RenamesNodes(Rebuilt):
        def build(self, model, out, options):
            artifact = super().build(model, out, options)
            model.graph[0].name = "renamed"
            return artifact

    with pytest.raises(AssertionError):
        contract.test_building_leaves_the_graph_as_it_was(RenamesNodes(), tmp_path)


def test_a_blocker_too_few_is_found():
    class ListsOne(Faulty):
        def blockers(self, model, options):
            return super().blockers(model, options)[:1]

    with pytest.raises(AssertionError):
        contract.test_lists_all_blockers_at_once(ListsOne())


def test_a_false_blocker_is_found(tmp_path: Path):
    class BlocksAll(Faulty):
        def blockers(self, model, options):
            from passes.errors import Blocker

            return (Blocker("graph", "model", "I do not like it"),)

    with pytest.raises(AssertionError):
        contract.build_fresh(BlocksAll(), next(iter(SMALL_MODELS)), tmp_path)
