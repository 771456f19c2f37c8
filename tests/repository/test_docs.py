"""What the documentation lists is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from exporter.cli import main
from passes.catalogue import PASSES, default_pipeline
from passes.parse import pipeline_from_text
from targets.registry import load_targets

ROOT = Path(__file__).resolve().parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_pass_is_described() -> None:
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text("docs/passes.md"), flags=re.MULTILINE))
    assert listed == set(PASSES)


def test_the_default_pipeline_is_the_one_shown() -> None:
    for step in default_pipeline().steps:
        assert str(step) in text("docs/passes.md")
    assert str(pipeline_from_text(str(default_pipeline()))) == str(default_pipeline())


def test_every_target_and_setting_is_described() -> None:
    targets, broken = load_targets()
    assert not broken
    for name in targets:
        assert f"| `{name}` |" in text("docs/targets.md")


def test_every_command_is_in_the_readme() -> None:
    for name in main.list_commands(None):  # type: ignore[arg-type]
        assert f"graphwright {name}" in text("README.md")


def test_ci_runs_the_readme_s_command() -> None:
    marked = re.search(r"<!-- tests -->\n```sh\n(.*?)```", text("README.md"), flags=re.DOTALL)
    assert marked is not None
    assert ".ci/checks" in marked[1]
    assert "<!-- tests -->" in text(".ci/run")


def test_the_readme_s_pass_is_one() -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL) if "(Pass)" in block
    )
    program = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "import onnx_ir as ir\nfrom passes.base import Context, Pass, PassResult\n"
        "from passes.pipeline import Pipeline\n"
        + code
        + """
import onnx.parser
model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 10, opset_import: ["" : 20]>
g (float[n] x) => (float[n] y) {
    a = Neg(x)
    b = Neg(a)
    y = Relu(b)
}'''))
rewritten, (result,) = Pipeline((RemoveDoubleNegation(),)).run(model)
assert len(result.applied) == 1
assert rewritten.graph.outputs[0].producer().inputs[0] is rewritten.graph.inputs[0]
"""
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_relative_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
