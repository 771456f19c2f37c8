"""The search of one target: sensitivity, trials, timing, choice; and the artifact that comes of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.lowering import (
    ArtifactMaking,
    Lowered,
    artifact_accuracy,
    blocked,
    typed_stage,
    with_artifact,
    without_artifact,
)
from exporter.results import ArtifactReport, StageAccuracy, Verdict
from exporter.search.candidates import Candidate, job_of, space_of
from exporter.search.choice import Choice, choose, kept_layers, merit, told_trials, why_chosen
from exporter.search.findings import LayerSensitivity, SearchReport
from exporter.search.ground import Ground
from exporter.search.margins import JUDGED_AS, auto_gates, budget, objective_of, with_margin
from exporter.search.racing import MOST_TIMED, Race, race
from exporter.search.records import read_record, records_folder, write_record
from exporter.search.sensitivity import layers_from_record, measure_layers, predictor
from exporter.search.strategy import Ranking, explore, guessed_number, keeping_order
from exporter.search.switchboard import open_switchboard
from exporter.search.trials import Trials
from passes.base import node_label
from passes.errors import BuildFailed, ExitCode, GraphwrightError, UsageError, worst
from passes.quantize.static import QuantizeStatic
from targets.base import Artifact

if TYPE_CHECKING:
    from exporter.evaluation.tolerance import GateSpec
    from exporter.jobs import Job
    from exporter.original import Original
    from exporter.recipe import Recipe
    from exporter.report.progress import Progress

LEAST_SECONDS = 3.0
"""Time for timing the candidates at one input shape, where the recipe measures no speed."""


def search(
    recipe: Recipe,
    job: Job,
    ground: Ground,
    original: Original,
    *,
    staging: Path,
    work: Path,
    progress: Progress,
) -> Lowered:
    """Return the fastest artifact that meets the accuracy gates, verified on the held-out samples.

    Where no candidate meets them, the most accurate one, with the exit code of a failed accuracy gate. Raises
    UsageError for settings that cannot be, and what `lower` raises.
    """
    job = job.with_dims(original.dims)
    readiness = job.target.probe()
    if not (readiness.can_build and readiness.can_run):
        reason = " ".join(filter(None, ("A search measures on the target.", readiness.reason, readiness.fix)))
        return Lowered(job, without_artifact(job, Verdict.NOT_RUN, ExitCode.NOT_RUN, reason))
    try:
        return _Search(recipe, job, ground, original, work / "search" / job.folder, progress).lowered(staging)
    except UsageError:
        raise
    except GraphwrightError as error:
        progress.done()
        return Lowered(job, blocked(job, error))


@dataclass(slots=True)
class _Search:
    recipe: Recipe
    job: Job
    ground: Ground
    original: Original
    work: Path
    progress: Progress
    layers: tuple[LayerSensitivity, ...] = ()
    cache_note: str = ""

    def lowered(self, staging: Path) -> Lowered:
        gates = budget(self.original.gates, target=self.job.target.name)
        strict = with_margin(gates)
        trials = self._trials(strict)
        space = space_of(self.job)
        self.progress.stage(f"search {self.job.title}: whole graphs first, {self.recipe.trials} trials at most")
        explore(space, trials.is_met, lambda: self._ranking(trials, gates))
        self.progress.done()
        if not any(trial.outputs for trial in trials.done.values()):
            reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials.done.values()))
            raise _no_candidate(self.job, reasons)
        objective = objective_of(gates)
        timed = self._worth_timing(trials, gates, strict, objective)
        seconds = self.recipe.speed_seconds or LEAST_SECONDS
        times = race(trials, timed, self.ground.timed, seconds=seconds, progress=self.progress)
        choice = choose(trials.done, times, gates, strict, objective)
        report = self._report(trials, times, choice, gates, strict, objective)
        return self._artifact(trials, choice, report, staging)

    def _trials(self, strict: tuple[GateSpec, ...]) -> Trials:
        facts = self.ground.facts | {
            "target": self.job.target.name,
            "settings": dict(sorted(self.job.request.settings.items())),
            "quantize": self.job.quantize,
            "dims": {name: asdict(dim) for name, dim in sorted(self.job.options.dims.items())},
        }
        folder, self.cache_note = records_folder(self.recipe, facts)
        return Trials(
            job=self.job,
            graphs=self.ground.graphs,
            original=self.original,
            validation=self.ground.references,
            specs=strict,
            work=self.work,
            most=self.recipe.trials,
            folder=folder,
            advance=lambda _: self.progress.advance(),
        )

    def _ranking(self, trials: Trials, gates: Sequence[GateSpec]) -> Ranking:
        """Measure every operator's sensitivity, or read it back, and guess how many have to be kept."""
        making = ArtifactMaking(job_of(Candidate("int8"), self.job), self.ground.graphs)
        try:
            quantized = making.typed()
        except BuildFailed:  # nothing can be int8: the trial of int8 alone has told why
            return Ranking((), {})
        results = making.pipeline.results if making.pipeline is not None else ()
        result = next((each for each in results if each.name == QuantizeStatic.name), None)
        if result is None:
            return Ranking((), {})
        path = trials.folder / "sensitivity.json" if trials.folder is not None else None
        optimized, padding, sensed = self.ground.graphs.optimized, self.original.padding, self.ground.sensed
        with open_switchboard(optimized, quantized, result, threads=self.original.threads) as board:
            self.layers = (read_record(path, layers_from_record) if path is not None else None) or ()
            if not self.layers:
                self.progress.stage(f"sensitivity for {self.job.title}", len(board.names) * len(sensed))
                self.layers, _ = measure_layers(board, sensed, padding=padding, advance=self.progress.advance)
                if path is not None:
                    write_record(path, {"layers": [asdict(layer) for layer in self.layers]})
            order = keeping_order(self.layers)
            self.progress.stage(f"search {self.job.title}: which operators to keep")
            guess = guessed_number(order, predictor(board, sensed, with_margin(gates), padding=padding))
        return Ranking(order, {layer.name: layer.share for layer in self.layers}, guess)

    def _worth_timing(
        self, trials: Trials, gates: Sequence[GateSpec], strict: Sequence[GateSpec], objective: str
    ) -> list[Candidate]:
        """Return whole graphs, then mixtures: those that meet the gates, least work kept first, then accurate ones."""
        run = [each for each, trial in trials.done.items() if trial.outputs and not trial.reason]
        whole = [each for each in run if each.is_plain]
        mixed = [each for each in run if not each.is_plain]
        met = sorted((each for each in mixed if trials.done[each].is_met(strict)), key=self._kept_share)
        rest = [each for each in mixed if each not in met and each in trials.built]
        rest.sort(key=lambda each: merit(trials.done[each], gates, objective), reverse=True)
        return [*whole, *met, *rest][:MOST_TIMED]

    def _kept_share(self, candidate: Candidate) -> float:
        shares = {layer.name: layer.share for layer in self.layers}
        return sum(shares.get(name, 0.0) for name in candidate.keep)

    def _report(
        self,
        trials: Trials,
        times: Race,
        choice: Choice,
        gates: Sequence[GateSpec],
        strict: Sequence[GateSpec],
        objective: str,
    ) -> SearchReport:
        operators = {node_label(node): node.op_type for node in self.ground.graphs.optimized.graph}
        notes = [*times.notes, *filter(None, [self.cache_note])]
        if not any(spec.is_users for spec in gates):
            notes.append("No accuracy gate was given: the search kept to int8's default gates. Give one with --gate.")
        if times.is_disturbed:
            notes.append("Other processes disturbed the timing: the choice may differ on an idle machine.")
        if trials.new >= self.recipe.trials:
            notes.append(f"The search ended at its {self.recipe.trials} trials: more may find a faster mixture.")
        return SearchReport(
            chosen=choice.candidate.title,
            why=why_chosen(trials.done, times, choice, strict, objective),
            is_met=choice.is_met,
            gates=tuple(f"{spec.name}={spec.threshold:.6g}" for spec in strict),
            objective=objective,
            trials=told_trials(trials.done, times, choice, gates, strict, objective),
            kept=kept_layers(trials.done[choice.candidate], self.layers, operators),
            sensitivity=self.layers,
            calibration_samples=self.ground.calibration_samples,
            validation_samples=len(self.ground.references),
            resumed=trials.resumed,
            is_disturbed=times.is_disturbed,
            notes=tuple(notes),
        )

    def _artifact(self, trials: Trials, choice: Choice, report: SearchReport, staging: Path) -> Lowered:
        built = trials.build(choice.candidate)
        job = replace(built.job, is_auto=True)
        folder = staging / job.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(built.artifact.path, folder)
        details = {
            **built.artifact.manifest.details,
            "auto": {
                "chosen": report.chosen,
                "gates": list(report.gates),
                "kept": [asdict(layer) for layer in report.kept],
            },
        }
        artifact = Artifact(folder, replace(built.artifact.manifest, details=details))
        judge = replace(self.original, gates=auto_gates(self.original.gates))
        stages = self._stages(job, judge)
        accuracy = artifact_accuracy(
            artifact,
            judge,
            title=job.title,
            precision=job.options.precision,
            progress=self.progress,
            judged_as=JUDGED_AS,
        )
        result = replace(with_artifact(job, artifact, accuracy, built.seconds), search=report)
        return Lowered(job, _failed(result, report), artifact, built.pipeline, stages)

    def _stages(self, job: Job, judge: Original) -> tuple[StageAccuracy, ...]:
        making = ArtifactMaking(job, self.ground.graphs)
        typed = making.typed()
        if typed is self.ground.graphs.optimized:
            return ()
        title = f"{job.options.precision} for {job.title}"
        return (
            typed_stage(job, typed, judge, stage=title, work=self.work, progress=self.progress, judged_as=JUDGED_AS),
        )


def _failed(result: ArtifactReport, report: SearchReport) -> ArtifactReport:
    """Return the artifact's report; failed where no candidate met the gates, whatever the held-out samples say."""
    if report.is_met:
        return result
    code = worst((result.exit_code, ExitCode.ACCURACY))
    reason = "; ".join(filter(None, (report.why, result.reason)))
    return replace(result, verdict=Verdict.FAILED, exit_code=code, reason=reason)


def _no_candidate(job: Job, reasons: str) -> GraphwrightError:
    return BuildFailed(f"No candidate for {job.title} could be built and run: {reasons}")
