"""Build the four example models and print a Markdown table of what was measured.

python tests/benchmarks/real_models.py OUT [NAME ...]      (on an otherwise idle machine; about 15 minutes)

torchcrepe cannot be installed with its dependencies next to this torch: `pip install --no-deps torchcrepe==0.0.24`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import exporter
from exporter.recipe import recipe_from_toml
from exporter.report.progress import make_progress
from exporter.results import ArtifactReport, BuildReport, OutputAccuracy, StageAccuracy
from exporter.timing import EAGER

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
NAMES = ("minilm", "efficientnet_lite0", "crepe", "speech_lstm")


def main(out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        recipe = replace(recipe_from_toml(EXAMPLES / f"{name}.toml"), speed_seconds=20.0)
        started = time.perf_counter()
        report = exporter.build(recipe, out / name, progress=make_progress())
        print(
            f"\n### {name} ({report.verdict}, exit code {report.exit_code:d}, {time.perf_counter() - started:.0f} s)\n"
        )
        print_stages(report)
        print_artifacts(report)


def worst(stage: StageAccuracy) -> OutputAccuracy:
    return min(stage.outputs, key=lambda output: output.sqnr_db)


def print_stages(report: BuildReport) -> None:
    print("| stage | " + " | ".join(output.name for output in report.stages[0].outputs) + " |")
    print("|---" * (1 + len(report.stages[0].outputs)) + "|")
    for stage in report.stages:
        figures = [f"{output.sqnr_db:.1f} dB, cosine {output.cosine:.4f}" for output in stage.outputs]
        print(f"| {stage.stage} | " + " | ".join(figures) + " |")
    print()


def print_artifacts(report: BuildReport) -> None:
    print(
        "| artifact | SQNR by output | MB | against torch eager | against torch.compile | against its fp32 | verdict |"
    )
    print("|---|---|---|---|---|---|---|")
    for artifact in report.artifacts:
        outputs = artifact.accuracy.outputs if artifact.accuracy is not None else ()
        figures = ", ".join(f"{output.sqnr_db:.1f}" for output in outputs) or "not run"
        cells = [ratios(artifact, label) for label in (EAGER, "torch.compile", f"{artifact.target} fp32")]
        title = f"{artifact.target} {artifact.label}"
        megabytes = f"{artifact.size_bytes / 1e6:.1f}"
        print(f"| {title} | {figures} | {megabytes} | {' | '.join(cells)} | {artifact.verdict} |")
    for speed in report.baselines:
        print(
            f"\n{speed.candidate.label} against eager at {speed.input_shapes}: {speed.ratio:.2f} "
            f"[{speed.ratio_low:.2f}, {speed.ratio_high:.2f}]"
        )
    for note in report.notes:
        print(f"\nnote: {note}")


def ratios(artifact: ArtifactReport, label: str) -> str:
    found = [speed for speed in artifact.speed if speed.baseline.label == label]
    return "; ".join(f"{each.ratio:.2f} [{each.ratio_low:.2f}, {each.ratio_high:.2f}]" for each in found) or "–"


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or NAMES)
