"""Seeds followed while they train: which are worth a proof, which are hopeless, and their verdicts.

Proofs are about the very weights that an evaluation measured, before anything is trained on. The
pure route ends there. On the assisted route a seed that ends unproved but nearly right is repaired
(``training.repair``); the two are counted apart.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adderlab.files.atomic import make_folder
from adderlab.proof.certificate import write_beside
from adderlab.proof.prove import Progress, Proof, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, save_checkpoint
from adderlab.runs.records import SUCCESS, Metrics, Repair, SeedRecord, Weights
from adderlab.study.verdicts import checked, verdict_fields
from adderlab.task.layouts import SUM_DIGITS
from adderlab.training.measure import Evaluation, SeedTracker
from adderlab.training.recipe import Recipe
from adderlab.training.repair import RepairSettings, repair

STUCK_BELOW = 0.9
"""An answer step that never was this accurate looks at the wrong column or ignores the carry."""
PATIENCE = 0.2
"""Fraction of the run over which a stuck step's pace is measured."""
LIMITS = Limits(cells=100_000, seconds=20.0, union_seconds=0.0)
"""For verdicts; failing pairs need not be counted."""
REPAIR_ROUNDS = 2
"""A round costs about what a fresh seed does, and what two do not repair, five rarely did."""


# Both rules are functions of the seed's own evaluations and of its recipe, so a search that was stopped
# and resumed decides as one that was not, and what becomes of a seed does not depend on its neighbours.


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
    restart."""
    ends = [phase.until or 0 for phase in recipe.data.curriculum.phases]
    releases = [round(freeze.until * recipe.steps) for freeze in recipe.freeze if freeze.then]
    return max([0, *ends, *releases, *(recipe.restarts.halve_at if recipe.restarts else ())])


def hopeless(history: Sequence[Metrics], recipe: Recipe) -> bool:
    """Whether the seed's learning has come to rest with an answer step missing.

    So it has if some answer step is stuck, that is, has never been 90% accurate, if none has come
    to 90% in the last fifth of the run (steps are learned one after another), and if no stuck step is
    on the way: at the pace at which its best accuracy rose over that fifth, none comes to 90% by the
    end (or within another fifth). Decided from a fifth of the run after the last change of data or
    release of parameters (``open_from``) on; never in the stages after ``recipe.steps``, which exist
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
    return not any(_expected(time, history, before, i) >= STUCK_BELOW for i in stuck)


def _expected(time: float, history: Sequence[Metrics], before: Sequence[Metrics], i: int) -> float:
    """Where answer step i's best accuracy will be if it rises on as it did since ``before``; ``time``
    in units of that."""
    return _best(history, i) + time * (_best(history, i) - _best(before, i))


def _best(history: Sequence[Metrics], i: int) -> float:
    """The best accuracy so far of answer step i."""
    return max((metrics.step_acc[i] for metrics in history), default=0.0)


class Interrupted(Exception):
    """The search was stopped during a proof."""


class SeedVerifier:
    """Follows seeds that train together; puts what it finds into their tracker's records."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        on_verdict: Callable[[SeedRecord, str], None],
        stop: threading.Event,
        histories: Mapping[int, Sequence[Metrics]] | None = None,
    ) -> None:
        """``folder``: where proved checkpoints and certificates go. ``histories``: the evaluations of
        seeds that are gone on with."""
        self.recipe, self.folder = recipe, folder
        self.files: dict[int, tuple[Path, Path]] = {}
        """Checkpoint and certificate of every proved seed."""
        self._histories = {seed: list(known) for seed, known in (histories or {}).items()}
        self._on_verdict, self._stop = on_verdict, stop

    def verify(self, evaluation: Evaluation, tracker: SeedTracker) -> None:
        """After an evaluation: prove what looks right, drop what is hopeless."""
        if evaluation.step == self.recipe.total_steps - 1:
            return  # ``conclude`` has the last word
        for row, seed in enumerate(evaluation.seeds):
            history = self._note(evaluation, row)
            if hopeless(history, self.recipe):
                self._decide(tracker, seed, "dropped", status="dropped")
            elif worth_a_proof(history):
                weights_N, exact = evaluation.weights_SN[row], history[-1].val_exact
                checkpoint = tracker.checkpoint(seed, weights_N, evaluation.step, exact)
                try:
                    self._prove(tracker, checkpoint, "last")
                except Interrupted:
                    return  # what a resume finds: this seed, in training

    def conclude(self, tracker: SeedTracker, *, assisted: bool) -> None:
        """The last word on seeds that trained to the end. Raises ``Interrupted``."""
        decided = ("proved", "dropped", "unproved")
        for seed in [each.seed for each in tracker.records.values() if each.status not in decided]:
            last, best = tracker.last(seed), tracker.best(seed)
            candidates: dict[Weights, Checkpoint] = {"last": last, "best": best}
            if last.weights_sha256 == best.weights_sha256:
                del candidates["best"]
            proved = any(
                self._prove(tracker, checkpoint, weights)
                for weights, checkpoint in candidates.items()
                if checkpoint.val_exact == 1.0
            )
            if not proved and assisted and best.val_exact >= SUCCESS:
                proved = self._repair(tracker, best)
            if not proved:
                self._decide(tracker, seed, "unproved", status="unproved")

    def _note(self, evaluation: Evaluation, row: int) -> list[Metrics]:
        """The seed's history with this evaluation; what a kill left of the same step goes."""
        history = self._histories.setdefault(evaluation.seeds[row], [])
        while history and history[-1].step >= evaluation.step:
            history.pop()
        history.append(evaluation.metrics(row, 0.0))
        return history

    def _prove(self, tracker: SeedTracker, checkpoint: Checkpoint, weights: Weights) -> bool:
        proof = prove_checkpoint(checkpoint, limits=LIMITS, progress=self._check_stop)
        proof = checked(proof, checkpoint, self._check_stop)
        seed, proved = _seed(checkpoint), proof.verdict == "proved"
        if proved:
            self._keep(checkpoint, proof)
        self._decide(
            tracker,
            seed,
            proof.verdict,
            **({"status": "proved"} if proved else {}),
            weights=weights,
            **verdict_fields(proof),
            proofs=tracker.records[seed].proofs + 1,
        )
        return proved

    def _repair(self, tracker: SeedTracker, checkpoint: Checkpoint) -> bool:
        seed = _seed(checkpoint)
        result = repair(
            checkpoint,
            RepairSettings(rounds=REPAIR_ROUNDS),
            limits=LIMITS,
            progress=self._check_stop,
        )
        found = checked(result.proof, result.checkpoint, self._check_stop)
        proved = found.verdict == "proved"
        if proved:
            self._keep(result.checkpoint, found)
        # A proof of what training itself left needs no help, however it came about.
        changes: dict[str, object] = {"weights": "best", **verdict_fields(found)}
        if result.trainings:
            step = result.checkpoint.step
            kept = Repair(trainings=result.trainings, step=step, **verdict_fields(found))
            changes = {"repair": kept}
        proofs = tracker.records[seed].proofs + len(result.rounds)
        status = {"status": "proved"} if proved else {}
        self._decide(tracker, seed, found.verdict, **status, proofs=proofs, **changes)
        return proved

    def _keep(self, checkpoint: Checkpoint, proof: Proof) -> None:
        """The files of a proved model, before its record says so."""
        path = self.folder / f"seed_{_seed(checkpoint):04d}.pt"
        make_folder(self.folder)
        save_checkpoint(path, checkpoint)
        self.files[_seed(checkpoint)] = path, write_beside(path, proof)

    def _decide(self, tracker: SeedTracker, seed: int, decision: str, **changes: object) -> None:
        """Change the seed's record, and tell of the decision."""
        tracker.put([dataclasses.replace(tracker.records[seed], **changes)])  # type: ignore[arg-type]
        self._on_verdict(tracker.records[seed], decision)

    def _check_stop(self, _: Progress) -> None:
        if self._stop.is_set():
            raise Interrupted


def _seed(checkpoint: Checkpoint) -> int:
    assert checkpoint.seed is not None
    return checkpoint.seed
