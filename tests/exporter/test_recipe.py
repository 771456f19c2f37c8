from __future__ import annotations

from pathlib import Path

import pytest

from exporter.jobs import planned_jobs
from exporter.recipe import (
    Recipe,
    TargetRequest,
    checked,
    dim_from_text,
    precisions_from_texts,
    recipe_from_toml,
    target_from_text,
    with_overrides,
)
from passes.errors import UsageError
from targets.base import DimRange


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_target_settings_may_hold_colons() -> None:
    request = target_from_text("xla:topology=v5e:2x2")
    assert request == TargetRequest("xla", {"topology": "v5e:2x2"})
    assert target_from_text(str(request)) == request


@pytest.mark.parametrize("text", ["", ":a=b", "xla:topology", "xla:a=", "xla:a=1,a=2"])
def test_malformed_targets_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        target_from_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch=8", DimRange(8, 8, 8)),
        ("batch=1..8", DimRange(1, 8, 8)),
        ("batch=1..4..16", DimRange(1, 4, 16)),
    ],
)
def test_dimensions(text: str, expected: DimRange) -> None:
    assert dim_from_text(text) == ("batch", expected)


@pytest.mark.parametrize("text", ["batch", "=3", "batch=0", "batch=8..1", "batch=1..9..4", "batch=1..2..3..4", "b=x"])
def test_malformed_dimensions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        dim_from_text(text)


def test_precisions_keep_their_order_and_come_once() -> None:
    assert precisions_from_texts(["int8,fp32", "fp32"]) == ("int8", "fp32")
    with pytest.raises(UsageError, match="int4"):
        precisions_from_texts(["int4"])


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'source = "m.py:build"\nsamples = "held_out"\ncalibration = "package.module:samples"\n'
        'targets = ["openvino", "xla:topology=v5e:2x2"]\nprecisions = ["fp32", "int8"]\ndims = {batch = "1..4..8"}\n',
    )
    recipe = recipe_from_toml(path)
    assert recipe.source == f"{tmp_path / 'm.py'}:build"
    assert recipe.samples == str(tmp_path / "held_out")
    assert recipe.calibration == "package.module:samples"
    assert [str(target) for target in recipe.targets] == ["openvino", "xla:topology=v5e:2x2"]
    assert recipe.dims == {"batch": DimRange(1, 4, 8)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no source"),
        ("source = ", "cannot be read"),
        ('source = "a:b"\ntarget = ["x"]', "unknown key 'target'"),
        ('source = "a:b"\nthreads = "2"', "must be int"),
        ('source = "a:b"\nthreads = true', "must be int"),
        ('source = "a:b"\nthreads = 0', "must be 1 to"),
        ('source = "a:b"\nthreads = 100000', "must be 1 to"),
        ('source = "a:b"\ntime_limit_s = inf', "must be a number"),
        ('source = "a:b"\nspeed_seconds = nan', "must be a number"),
        ('source = "a:b"\ngates = [1]', "list of strings"),
        ('source = "a:b"\nwaive = ["accuracy"]', "cannot be waived"),
        ('source = "a:b"\ntargets = []', "No target"),
        ('source = "a:b"\nspeed_seconds = -1', "at least 0"),
    ],
)
def test_faults_in_a_recipe_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_from_toml(write(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe"):
        recipe_from_toml(tmp_path / "none.toml")


def test_flags_override_and_are_checked() -> None:
    recipe = with_overrides(Recipe(source="a:b"), {"threads": 1, "samples": None})
    assert recipe.thread_count == 1
    with pytest.raises(UsageError):
        with_overrides(recipe, {"threads": 0})


def test_a_waiver_covers_only_what_it_names() -> None:
    targets = tuple(map(target_from_text, ("xla:topology=v5e:2x2", "xla", "tensorrt:sm=89")))
    waive = ("execution:xla:topology=v5e:2x2", "execution:tensorrt")
    recipe = checked(Recipe(source="a:b", targets=targets, waive=waive))
    with pytest.raises(UsageError, match="not asked for"):
        checked(Recipe(source="a:b", targets=targets, waive=("execution:openvino",)))
    assert recipe.is_waived("execution", "xla", "xla:topology=v5e:2x2")
    assert not recipe.is_waived("execution", "xla", "xla")
    assert recipe.is_waived("execution", "tensorrt", "tensorrt:sm=89")


def test_targets_and_precisions_may_be_given_as_text() -> None:
    overrides = {"targets": ("openvino", TargetRequest("xla")), "precisions": "fp32,int8", "gates": "sqnr=20"}
    recipe = with_overrides(Recipe("m.onnx"), overrides)
    assert recipe.targets == (TargetRequest("openvino"), TargetRequest("xla"))
    assert (recipe.precisions, recipe.gates) == (("fp32", "int8"), ("sqnr=20",))
    assert with_overrides(recipe, {"targets": "xla:topology=v5e:2x2"}).targets == (
        TargetRequest("xla", {"topology": "v5e:2x2"}),
    )


def test_the_int8_pass_and_the_range_method_are_read_and_reach_the_jobs(tmp_path: Path) -> None:
    text = "quantize-static{granularity=tensor,smooth=false}"
    recipe = recipe_from_toml(
        write(tmp_path, f'source = "m.onnx"\nquantize = "{text}"\nranges = "percentile"\nprecisions = ["int8"]\n')
    )
    assert recipe.ranges == "percentile"
    [job] = planned_jobs(recipe)
    assert str(job.precision_pipeline()) == text


@pytest.mark.parametrize(
    "values", [{"quantize": "fuse-gelu"}, {"quantize": "quantize-static,fuse-gelu"}, {"quantize": ""}, {"ranges": "kl"}]
)
def test_wrong_ways_to_quantize_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        with_overrides(Recipe("m.onnx"), values)


def test_the_precision_alone_says_how_many_bits_weights_have() -> None:
    with pytest.raises(UsageError, match="says how many bits"):
        checked(Recipe(source="m.onnx", precisions=("int4-weight-only",), weights="quantize-weights{bits=8}"))
