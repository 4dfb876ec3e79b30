"""What becomes of each seed of a try: trained on, dropped, proved, repaired.

Proofs are about the very weights that an evaluation measured, before anything is trained on. The
pure route ends there. On the assisted route a seed that ends unproved but nearly right is repaired
(training/repair.py); the two are counted apart.

Shapes: S seeds still training, N parameters of one model, flat.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from adderlab.files import schema
from adderlab.files.atomic import make_folder
from adderlab.models.config import ModelConfig
from adderlab.proof.certificate import write_beside
from adderlab.proof.prove import Progress, Proof, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, parameter_shapes, save_checkpoint
from adderlab.runs.metrics import Metrics
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.measure import Evaluation
from adderlab.training.recipe import Recipe
from adderlab.training.repair import RepairSettings, Round, repair
from adderlab.training.tracker import SUCCESS, SeedTracker

# When a seed in training is worth a proof, and when it is hopeless.
#
# Both are functions of the seed's own evaluations and of its recipe, so a search that was stopped and
# resumed decides as one that was not, and a seed's fate does not depend on its neighbours.


STUCK_BELOW = 0.9
"""An answer step that never was this accurate looks at the wrong column or ignores the carry."""
PATIENCE = 0.2
"""Fraction of the run over which a stuck step's pace is measured."""


def worth_a_proof(history: Sequence[Metrics]) -> bool:
    """After 2, 4, 8, ... evaluations in a row at exact match 1.

    One may be luck at a high learning rate; two rarely are, and a proof costs as much as thousands
    of steps, so each one in vain doubles the wait for the next.
    """
    perfect = 0
    for metrics in reversed(history):
        if metrics.val_exact < 1.0:
            break
        perfect += 1
    return perfect >= 2 and perfect & (perfect - 1) == 0


def open_from(recipe: Recipe) -> int:
    """The first step at which all the data and all the parameters take part in the training, of one
    draw."""
    ends = [phase.until or 0 for phase in recipe.data.curriculum.phases]
    releases = [round(freeze.until * recipe.steps) for freeze in recipe.freeze if freeze.then]
    return max([0, *ends, *releases, *(recipe.restarts.halve_at if recipe.restarts else ())])


def hopeless(history: Sequence[Metrics], recipe: Recipe) -> bool:
    """Whether the seed's learning has come to rest with an answer step missing.

    So it has if some answer step is stuck, that is, has never been 90% accurate, if none has come
    to 90% in the last fifth of the run (steps are learned one after another), and if no stuck step is
    on the way: at the pace at which its best accuracy rose over that fifth, none comes to 90% by the
    end (or within another fifth). Judged from a fifth of the run after the last change of data or
    release of parameters (``open_from``) on; never in the restarts after ``recipe.steps``, which exist
    for such seeds. A seed whose loss is no number is hopeless at once.
    """
    if not history:
        return False
    now = history[-1]
    if now.train_loss != now.train_loss:
        return True
    wait = PATIENCE * recipe.total_steps
    if not open_from(recipe) + wait <= now.step < recipe.steps - 1 or len(now.step_acc) != SUM_DIGITS:
        return False
    before = [metrics for metrics in history if metrics.step <= now.step - wait]
    stuck = [i for i in range(SUM_DIGITS) if _best(history, i) < STUCK_BELOW]
    if not stuck or any(_best(before, i) < STUCK_BELOW for i in range(SUM_DIGITS) if i not in stuck):
        return False
    time = max(1.0, (recipe.steps - now.step) / wait)
    return not any(_in(time, history, before, i) >= STUCK_BELOW for i in stuck)


def _in(time: float, history: Sequence[Metrics], before: Sequence[Metrics], i: int) -> float:
    """Where answer step i's best accuracy will be if it rises on as it did since ``before``; ``time``
    in units of that."""
    return _best(history, i) + time * (_best(history, i) - _best(before, i))


def _best(history: Sequence[Metrics], i: int) -> float:
    """The best accuracy so far of answer step i."""
    return max((metrics.step_acc[i] for metrics in history), default=0.0)


LIMITS = Limits(cells=100_000, seconds=20.0, union_seconds=0.0)
"""For verdicts; failing pairs need not be counted."""
REPAIR_ROUNDS = 2
"""A round costs about what a fresh seed does, and what two do not repair, five rarely did."""

State = Literal["training", "proved", "dropped", "unproved"]
Route = Literal["", "pure", "assisted"]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """How far one seed has come."""

    seed: int
    state: State = "training"
    route: Route = ""
    step: int = 0
    """At which the weights were last measured or proved; repairs go on counting."""
    val_exact: float = 0.0
    proofs: int = 0
    trainings: int = 0
    """Of repairs."""
    margin_bound: float | None = None
    margin_witness: float | None = None
    pair: tuple[int, ...] = ()
    """Where the smallest margin is."""
    checkpoint: str = ""
    certificate: str = ""
    """Files of a proved seed."""


class Judged(Protocol):
    """Whoever is told of fates; called from the thread that trains."""

    def judged(self, fate: Fate, verdict: str) -> None:
        """``verdict``: proved, refuted or undecided, of a proof; dropped; or unproved at the end."""
        ...


class Interrupted(Exception):
    """The search was told to stop during a proof."""


class Judge:
    """Follows the seeds of one try. ``evaluated`` is what ``run`` asks which seeds to retire."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        fates: Sequence[Fate],
        folder: Path,
        told: Judged,
        stop: threading.Event,
    ) -> None:
        """``folder``: where proved checkpoints and certificates go."""
        self.config, self.recipe, self.folder = config, recipe, folder
        self.fates = {fate.seed: fate for fate in fates}
        self.histories: dict[int, list[Metrics]] = {fate.seed: [] for fate in fates}
        self._told, self._stop = told, stop

    def evaluated(self, evaluation: Evaluation) -> dict[int, str]:
        """Seeds that end here: proved or dropped."""
        ending: dict[int, str] = {}
        for row, seed in enumerate(evaluation.seeds):
            history = self._note(evaluation, row)
            step, exact = evaluation.step, history[-1].val_exact
            self._change(seed, step=step, val_exact=exact)
            if step == self.recipe.total_steps - 1:
                continue  # ``conclude`` has the last word
            if hopeless(history, self.recipe):
                self._change(seed, state="dropped")
                self._told.judged(self.fates[seed], "dropped")
            elif worth_a_proof(history):
                checkpoint = self._checkpoint(seed, evaluation.weights_SN[row], step, exact)
                try:
                    self._prove(checkpoint)
                except Interrupted:
                    return ending  # what a resume finds: this seed, in training
            if self.fates[seed].state != "training":
                ending[seed] = self.fates[seed].state
        return ending

    def conclude(self, tracker: SeedTracker, *, assisted: bool) -> None:
        """The last word on seeds that trained to the end. Raises ``Interrupted``."""
        for seed in [seed for seed, fate in self.fates.items() if fate.state == "training"]:
            best = self._of_ledger(tracker, seed, best=True)
            last = self._of_ledger(tracker, seed, best=False)
            candidates = [each for each in (last, best) if each.val_exact == 1.0]
            if len(candidates) == 2 and last.weights_sha256 == best.weights_sha256:
                candidates.pop()
            proved = any(self._prove(each) for each in candidates)
            if not proved and assisted and best.val_exact >= SUCCESS:
                proved = self._repair(best)
            if not proved:
                self._change(seed, state="unproved")
                self._told.judged(self.fates[seed], "unproved")

    def _note(self, evaluation: Evaluation, row: int) -> list[Metrics]:
        """The seed's history with this evaluation; what a kill left of the same step goes."""
        history = self.histories[evaluation.seeds[row]]
        while history and history[-1].step >= evaluation.step:
            history.pop()
        history.append(
            Metrics(
                step=evaluation.step,
                train_loss=float(evaluation.train_loss_S[row]),
                val_exact=float(evaluation.val_exact_S[row]),
                val_token_acc=float(evaluation.val_token_acc_S[row]),
                lr=evaluation.lr,
                elapsed_sec=0.0,
                step_acc=tuple(evaluation.step_acc_SI[row].tolist()),
            )
        )
        return history

    def _prove(self, checkpoint: Checkpoint) -> bool:
        proof = prove_checkpoint(checkpoint, limits=LIMITS, progress=self._heed)
        seed = self._seed(checkpoint)
        self._change(seed, proofs=self.fates[seed].proofs + 1)
        return self._take(checkpoint, proof, "pure")

    def _repair(self, checkpoint: Checkpoint) -> bool:
        seed = self._seed(checkpoint)

        def told(each: Round) -> None:
            fate = self.fates[seed]
            trainings = fate.trainings + (each.witnesses > 0)
            self._change(seed, proofs=fate.proofs + 1, trainings=trainings)

        result = repair(
            checkpoint,
            RepairSettings(rounds=REPAIR_ROUNDS),
            limits=LIMITS,
            told=told,
            progress=self._heed,
        )
        # A proof of what training itself left needs no help, however it came about.
        route: Route = "assisted" if result.trainings else "pure"
        return self._take(result.checkpoint, result.proof, route)

    def _take(self, checkpoint: Checkpoint, proof: Proof, route: Route) -> bool:
        """Note a verdict; keep the files of a proved model."""
        seed = self._seed(checkpoint)
        if proof.verdict == "proved":
            path = self.folder / f"seed_{seed:04d}.pt"
            make_folder(self.folder)
            save_checkpoint(path, checkpoint)
            certified = write_beside(path, proof)
            self._change(
                seed,
                state="proved",
                route=route,
                step=checkpoint.step,
                val_exact=checkpoint.val_exact,
                margin_bound=proof.margin.bound,
                margin_witness=proof.margin.witness,
                pair=proof.margin.pair,
                checkpoint=str(path),
                certificate=str(certified),
            )
        self._told.judged(self.fates[seed], proof.verdict)
        return proof.verdict == "proved"

    def _heed(self, _: Progress) -> None:
        if self._stop.is_set():
            raise Interrupted

    def _change(self, seed: int, **values: object) -> None:
        self.fates[seed] = dataclasses.replace(self.fates[seed], **values)  # type: ignore[arg-type]

    @staticmethod
    def _seed(checkpoint: Checkpoint) -> int:
        assert checkpoint.seed is not None
        return checkpoint.seed

    def _of_ledger(self, tracker: SeedTracker, seed: int, *, best: bool) -> Checkpoint:
        row = tracker.rows[seed]
        if best:
            flat_N, _ = tracker.best_weights(seed)
            return self._checkpoint(seed, flat_N, row.best_step, row.best_val_exact)
        flat_N, step = tracker.last_weights(seed)
        return self._checkpoint(seed, flat_N, step, row.final_val_exact)

    def _checkpoint(self, seed: int, flat_N: Tensor, step: int, val_exact: float) -> Checkpoint:
        shapes = parameter_shapes(self.config)
        parts = flat_N.split([torch.Size(shape).numel() for shape in shapes.values()])
        return Checkpoint(
            config=self.config,
            params={
                name: part.reshape(shape)
                for (name, shape), part in zip(shapes.items(), parts, strict=True)
            },
            recipe=schema.to_dict(self.recipe),
            seed=seed,
            step=step,
            val_exact=val_exact,
        )
