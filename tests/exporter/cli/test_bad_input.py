"""What a user gets wrong: the documented exit code, the cause and the fix, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner, Result

from exporter.cli import main
from tests.support.onnx_sources import classifier, classifier_samples

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return classifier(tmp_path / "in" / "model.onnx")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return classifier_samples(tmp_path / "samples", seed=1)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "results" / "out"
    yield folder
    left = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
    assert left == [], "something was left half-written"


def assert_refused(done: Result, code: int, *words: str) -> None:
    assert done.exit_code == code, done.output
    for word in words:
        assert word in done.output, done.output
    assert "Traceback" not in done.output


def test_a_missing_file(out: Path, samples: Path) -> None:
    assert_refused(run("build", "none.onnx", "-o", out, "--samples", samples), 2, "none.onnx")


def test_a_truncated_file(model: Path, samples: Path, out: Path) -> None:
    content = model.read_bytes()
    for end in (0, 1, len(content) // 3, len(content) // 2, len(content) - 7):
        model.write_bytes(content[:end])
        assert_refused(run("build", model, "-o", out, "--samples", samples), 2, "model.onnx")


def test_unknown_operators_are_all_listed(samples: Path, out: Path, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "my.domain" : 1]>
        g (float[n, 4] x) => (float[n, 4] y) {
            a = my.domain.Frobnicate(x)
            b = Relu(a)
            c = my.domain.Twiddle(b)
            y = Identity(c)
        }"""
    )
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index}"
    path = tmp_path / "odd.onnx"
    onnx.save(proto, path)
    for target in ("onnxruntime", "openvino", "xla", "tensorrt"):
        done = run("inspect", path, "--target", target)
        assert_refused(done, 5, "Frobnicate", "Twiddle", "node_0", "node_2")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd"])
def test_external_data_outside_the_folder(model: Path, samples: Path, out: Path, location: str) -> None:
    proto = onnx.load(model)
    (model.parent.parent / "secret.bin").write_bytes(bytes(10_000))
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    model.write_bytes(proto.SerializeToString())
    assert_refused(run("build", model, "-o", out, "--samples", samples), 2, "outside its folder", location)
    assert_refused(run("optimize", model, "-o", model.parent / "o.onnx"), 2, "outside its folder")


def test_wrong_input_name_shape_type_and_value(model: Path, out: Path, tmp_path: Path) -> None:
    good = np.zeros((2, 3, 8, 8), np.float32)
    bad = {
        "has no input 'other'": {"image": good},
        "imagee": {"imagee": good, "other": good},
        "[2, 3, 9, 9]": {"image": np.zeros((2, 3, 9, 9), np.float32), "other": good},
        "batch dimension missing": {"image": good[0], "other": good[0]},
        "complex64": {"image": good.astype(np.complex64), "other": good},
        "NaN": {"image": good * np.nan, "other": good},
    }
    for word, arrays in bad.items():
        np.savez(tmp_path / "bad.npz", **arrays)
        assert_refused(run("build", model, "-o", out, "--samples", tmp_path / "bad.npz"), 2, word)


def test_a_builder_that_raises(out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build():\n    raise RuntimeError('no weights here')\n")
    done = run("build", f"{tmp_path / 'mine.py'}:build", "-o", out)
    assert_refused(done, 2, "no weights here", "mine.py:2")
    assert_refused(run("build", f"{tmp_path / 'mine.py'}:biuld", "-o", out), 2, "biuld", "build")


def test_a_missing_extra(model: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from exporter.cli import main\n"
        f"main(['build', {str(model)!r}, '-o', {str(out)!r}, '--samples', {str(samples)!r}, '--target', 'openvino'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "openvino" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["artifacts"][0]["verdict"] == "not run"
    assert report["artifacts"][0]["reason"]


def test_int8_without_calibration_data(model: Path, samples: Path, out: Path) -> None:
    done = run("build", model, "-o", out, "--samples", samples, "--precision", "int8")
    assert_refused(done, 2, "calibration", "--calibration")


def test_no_samples(model: Path, out: Path) -> None:
    assert_refused(run("build", model, "-o", out), 2, "--samples")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--target", "openvin"), "openvino"),
        (("--target", "openvino:precission=f32"), "precission"),
        (("--precision", "int9"), "int9"),
        (("--gate", "sqnr_dbb=3"), "sqnr_db"),
        (("--gate", "sqnr_db=loud"), "loud"),
        (("--pipeline", "fuse-gelo"), "fuse-gelu"),
        (("--dim", "batch"), "batch"),
        (("--waive", "accuracy"), "waived"),
        (("--target", "openvino", "--target", "openvino"), "once"),
    ],
)
def test_wrong_flags(model: Path, samples: Path, out: Path, flags: tuple[str, ...], word: str) -> None:
    assert_refused(run("build", model, "-o", out, "--samples", samples, *flags), 2, word)


def test_errors_are_json_too(out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "build", "none.onnx", "-o", str(out), "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "none.onnx" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount of its own, which only root can make")
def test_a_full_disk(model: Path, samples: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        done = run("build", model, "-o", disk / "out", "--samples", samples, "--speed-seconds", 0)
        assert_refused(done, 2, "cannot be written")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_unwritable_folder(model: Path, samples: Path) -> None:
    assert_refused(run("build", model, "-o", "/proc/nothing/out", "--samples", samples), 2, "cannot be written")
    assert_refused(run("optimize", model, "-o", "/proc/nothing/out.onnx"), 2, "/proc/nothing")


def test_a_folder_of_somebody_else(model: Path, samples: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years of work")
    assert_refused(run("build", model, "-o", tmp_path / "thesis", "--samples", samples), 2, "not empty")
    assert (tmp_path / "thesis" / "text.tex").read_text() == "years of work"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(model: Path, samples: Path, tmp_path: Path, sign: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, numpy as np\n"
        "def samples():\n"
        "    while True:\n"
        "        yield {name: np.zeros((2, 3, 8, 8), np.float32) for name in ('image', 'other')}\n"
        "        time.sleep(0.05)\n"
    )
    out = tmp_path / "results" / "out"
    source = f"{tmp_path}/slow.py:samples"
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "build", str(model), "-o", str(out), "--samples", source],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out.parent.is_dir() and list(out.parent.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted" in errors
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_optimize_saves_leaves_what_was_there(tmp_path: Path, sign: signal.Signals) -> None:
    import passes.serialization as files
    from tests.support.rewriting import add_weights, graph_from, random_array

    text = "g (float[n,40] x, float[40,40] w) => (float[n,40] y) { y = MatMul (x, w) }"
    files.save_model(add_weights(graph_from(text), w=random_array(40, 40)), tmp_path / "m.onnx")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    code = (
        "import sys, time, passes.serialization as files\n"
        "def slow(stream, tensor):\n"
        "    stream.write(b'half of a weight'); stream.flush(); print('saving', flush=True); time.sleep(60)\n"
        "files._write_tensor = slow\n"
        "from exporter.cli import main\n"
        f"main(['optimize', {str(tmp_path / 'm.onnx')!r}, '-o', {str(tmp_path / 'm.onnx')!r}])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "saving"
    assert len(list(tmp_path.iterdir())) == 3
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted" in errors
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_verify_refuses_what_is_no_artifact(model: Path, tmp_path: Path) -> None:
    assert_refused(run("verify", tmp_path / "none", "--against", model), 2, "no folder")
    (tmp_path / "empty").mkdir()
    assert_refused(run("verify", tmp_path / "empty", "--against", model), 2, "no artifact")


def test_an_unknown_command_names_the_near_one() -> None:
    assert_refused(run("optimise"), 2, "optimize")


def test_a_pipe_closed_while_a_table_is_printed_has_its_own_exit_code(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "exporter", "optimize", str(model), "-o", str(model.with_name("closed.onnx"))]
    with os.fdopen(writer, "wb") as stream:
        done = subprocess.run([*command, "--pipeline", "remove-identities"], stdout=stream, stderr=subprocess.PIPE)
    assert done.returncode == 141, done.stderr.decode()


def test_a_folder_that_takes_no_file_is_not_a_full_disk(model: Path) -> None:
    done = run("optimize", model, "-o", "/proc/y.onnx", "--pipeline", "remove-identities")
    assert done.exit_code == 2
    assert "Choose another folder" in done.output
    assert "Free disk space" not in done.output


def test_a_file_system_that_takes_no_writes_is_no_defect_of_ours(model: Path, tmp_path: Path) -> None:
    code = (
        "import errno, pathlib, passes.serialization as files\n"
        "def refuse(*args, **options):\n"
        "    raise OSError(errno.EROFS, 'Read-only file system', '/away/m.onnx')\n"
        "files._externalize = pathlib.Path.unlink = refuse\n"
        "from exporter.cli import main\n"
        f"main(['optimize', {str(model)!r}, '-o', {str(tmp_path / 'o' / 'm.onnx')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "defect" not in done.stderr


def test_a_build_may_follow_one_whose_target_could_not_run(model: Path, samples: Path, tmp_path: Path) -> None:
    out, common = tmp_path / "out", ("--samples", samples, "--speed-seconds", "0")
    assert run("build", model, "-o", out, "--target", "onnxruntime:provider=cuda", *common).exit_code == 6
    assert not (out / "onnxruntime").exists()
    assert run("build", model, "-o", out, *common).exit_code == 0
