"""Loading users' functions: what is found, what hides nothing, and what each failure says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import passes
from exporter.user_code import is_function_location, load_function
from passes.errors import ExitCode, UsageError


@pytest.fixture(autouse=True)
def _same_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.py:build", True),
        ("/a b/model.py:build", True),
        ("C:/models/model.py:build", True),
        ("package.module:build", True),
        ("module:build", True),
        ("model.onnx", False),
        ("model.py", False),
        ("model.py:", False),
        (":build", False),
        ("model.py:build it", False),
        ("package..module:build", False),
        ("folder/model:build", False),
    ],
)
def test_form_of_a_location(text: str, expected: bool) -> None:
    assert is_function_location(text) is expected


def test_a_function_in_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "def build():\n    return 7\n")
    loaded = load_function(f"{path}:build")
    assert loaded() == 7
    assert loaded.file == path
    assert "model" not in sys.modules


def test_a_function_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "user_package_a/__init__.py", "")
    write(tmp_path, "user_package_a/nets.py", "def build():\n    return 8\n")
    monkeypatch.chdir(tmp_path)
    assert load_function("user_package_a.nets:build")() == 8


def test_neighbours_are_importable_and_hide_nothing(tmp_path: Path) -> None:
    write(tmp_path, "passes.py", "raise RuntimeError('the wrong passes')\n")
    write(tmp_path, "types.py", "raise RuntimeError('the wrong types')\n")
    write(tmp_path, "neighbour_of_build.py", "VALUE = 9\n")
    text = (
        "import types, passes, neighbour_of_build\ndef build():\n    return neighbour_of_build.VALUE, passes.__file__\n"
    )
    value, file = load_function(f"{write(tmp_path, 'model.py', text)}:build")()
    assert value == 9
    assert file == passes.__file__
    assert sys.path[-1] == str(tmp_path)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    first = write(tmp_path, "a/model.py", "def build():\n    return 1\n")
    second = write(tmp_path, "b/model.py", "def build():\n    return 2\n")
    assert (load_function(f"{first}:build")(), load_function(f"{second}:build")()) == (1, 2)


def test_prints_leave_stdout_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "model.py", "print('importing')\ndef build():\n    print('building')\n")
    load_function(f"{path}:build")()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split() == ["importing", "building"]


def error_of(location: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_function(location)()
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value


def test_missing_file_names_the_near_one(tmp_path: Path) -> None:
    write(tmp_path, "model.py", "")
    error = error_of(f"{tmp_path}/modle.py:build")
    assert "no file" in error.message
    assert "model.py" in error.hint


def test_missing_function_names_the_near_one(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "def build():\n    pass\ndef other():\n    pass\n")
    error = error_of(f"{path}:biuld")
    assert "no function 'biuld'" in error.message
    assert error.hint == "It has: build."


def test_missing_function_without_a_near_one(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "x = 1\n")
    assert error_of(f"{path}:build").hint == "It defines no functions."
    assert "is a int, not a function" in error_of(f"{path}:x").message


def test_missing_module() -> None:
    error = error_of("surely_absent_package.nets:build")
    assert "no module 'surely_absent_package'" in error.message


def test_module_that_lacks_what_it_imports(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "import json\nimport surely_absent_package\n")
    error = error_of(f"{path}:build")
    assert "surely_absent_package" in error.message
    assert error.hint.startswith("Install what provides 'surely_absent_package'; it is imported at model.py:2")


def test_module_that_raises(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "x = 1\nraise ValueError('no weights')\n")
    error = error_of(f"{path}:build")
    assert "raised ValueError: no weights while it was imported" in error.message
    assert "model.py:2" in error.hint
    path.write_text("def build():\n    return 1\n")  # mended, it loads: no half-imported module was kept
    assert load_function(f"{path}:build")() == 1


def test_module_with_a_syntax_error(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "def build(:\n")
    error = error_of(f"{path}:build")
    assert "SyntaxError" in error.message
    assert "model.py:1" in error.hint


def test_module_that_exits(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "import sys\nsys.exit(3)\n")
    assert "called sys.exit(3)" in error_of(f"{path}:build").message


def test_function_that_raises(tmp_path: Path) -> None:
    text = "import json\ndef build():\n    return deeper()\ndef deeper():\n    return json.loads('{')\n"
    path = write(tmp_path, "model.py", text)
    error = error_of(f"{path}:build")
    assert "raised JSONDecodeError" in error.message
    assert "model.py:5, in deeper: return json.loads('{')" in error.hint


def test_function_that_exits(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "def build():\n    raise SystemExit(1)\n")
    assert "called sys.exit(1)" in error_of(f"{path}:build").message


def test_interrupting_is_not_the_users_error(tmp_path: Path) -> None:
    path = write(tmp_path, "model.py", "def build():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_function(f"{path}:build")()


@pytest.mark.parametrize("location", ["model.py", "build", "model.onnx:", "a b:c"])
def test_other_forms(location: str) -> None:
    assert "path/to/file.py:function" in error_of(location).hint
