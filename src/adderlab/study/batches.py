"""What a search trains, batch by batch: its plan, and how one batch is trained, proved and reported on.

A trainer runs in a thread of the search or in a process of its own (``adderlab.workers``); all that it
tells the search are reports.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from adderlab.files.atomic import read_json
from adderlab.models.config import ModelConfig
from adderlab.reading.file_model import FileModel
from adderlab.runs.folder import STATE_FILE, load_state
from adderlab.runs.metadata import ENDED
from adderlab.runs.records import SeedRecord, write_records
from adderlab.runs.stored import read_history
from adderlab.study.verdicts import Interrupted, SeedVerifier
from adderlab.training.measure import Evaluation, Listener, SeedTracker, Start
from adderlab.training.objective import Objective
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, run
from adderlab.workers import Report


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What a search trains. Where it stops is a matter of each call."""

    config: ModelConfig | FileModel
    recipe: Recipe
    seeds: tuple[int, ...]
    """In this order."""
    onward: bool = False
    """After the listed seeds, go on with the numbers above them."""
    folder: Path
    assisted: bool = True
    """Repair seeds that end nearly right."""
    together: int = 1
    """Seeds of a batch."""

    def __post_init__(self) -> None:
        assert self.seeds and self.together >= 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Seeds trained together."""

    folder: Path
    seeds: tuple[int, ...]


class Trainer:
    """Trains batches, in a thread or in a process of its own, and reports."""

    def __init__(
        self,
        plan: SearchPlan,
        objective: Objective,
        device: torch.device,
        stop: threading.Event,
        provers: int,
    ) -> None:
        """``provers``: processes that work on a proof, which probably ends the search."""
        self.plan, self.objective, self.device, self.stop = plan, objective, device, stop
        self.provers = provers
        about = plan.folder / "environment.json"  # a search of version 0.1 has none
        self._environment = read_json(about) if about.is_file() else None

    def prepare(self) -> None:
        """Load, or compile, what the steps of any seed need."""
        layout = self.plan.config.token_layout
        for _, stage in self.plan.recipe.parts:
            assert stage.logit_scale is not None and stage.data is not None
            objective = self.objective.sharpened(stage.logit_scale)
            objective.sampler(stage.data, layout)
            objective.stepper(stage.data, layout)

    def train(self, batch: Batch, report: Report) -> None:
        """Train a batch, from where it is, to its end or until the stop."""
        plan = self.plan
        resumed = (batch.folder / STATE_FILE).is_file()
        report("begin", load_state(batch.folder)["population"]["next_step"] if resumed else 0)
        histories = {seed: read_history(batch.folder, seed) for seed in batch.seeds} if resumed else {}

        def placed(record: SeedRecord) -> SeedRecord:
            """As the search knows it: paths are below its own folder."""
            found = record.below(batch.folder.name)
            if record.seed in verifier.files:
                checkpoint, certificate = (
                    path.relative_to(plan.folder).as_posix() for path in verifier.files[record.seed]
                )
                found = dataclasses.replace(found, checkpoint=checkpoint, certificate=certificate)
            return found

        verifier = SeedVerifier(
            plan.recipe,
            plan.folder / "proved",
            lambda record, verdict: report("on_verdict", placed(record), verdict),
            self.stop,
            histories,
            lambda seed, doing: report("on_activity", seed, doing),
            self.provers,
            lambda taken: report("on_cores", taken),
        )
        job = Job(
            config=plan.config,
            recipe=plan.recipe,
            seeds=batch.seeds,
            folder=batch.folder,
            overwrite=not resumed,
        )

        def verify(evaluation: Evaluation, tracker: SeedTracker) -> None:
            report("take", tuple(map(placed, tracker.records.values())))
            verifier.verify(evaluation, tracker)

        result = run(
            job,
            self.objective,
            self.device,
            _Reporter(report),
            resume=resumed,
            stop=self.stop,
            verify=verify,
            environment=self._environment,
        )
        if result.status in ENDED:
            with contextlib.suppress(Interrupted):
                verifier.conclude(result.tracker, assisted=plan.assisted)
            write_records(batch.folder, result.records)
        report("take", tuple(map(placed, result.records)))


class _Reporter(Listener):
    """What a run tells, as reports."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_start(self, start: Start) -> None:
        self._report("on_start", start)

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        self._report("on_step", seeds, step, models)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self._report("on_evaluation", evaluation, records)
