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

from adderlab import schema
from adderlab.models.config import ModelConfig
from adderlab.models.tables import Tables
from adderlab.proof.certificate import certificate, write_beside
from adderlab.proof.of_checkpoint import exact_tables, prove_checkpoint
from adderlab.proof.prove import Progress, Proof
from adderlab.proof.search import Limits
from adderlab.runs.atomic import make_folder
from adderlab.runs.checkpoints import Checkpoint, save_checkpoint
from adderlab.runs.fitting import parameter_shapes
from adderlab.runs.metrics import Metrics
from adderlab.training.ledger import SUCCESS, Ledger
from adderlab.training.measure import Evaluation
from adderlab.training.recipe import Recipe
from adderlab.training.repair import RepairSettings, Round, repair
from adderlab.training.until_rules import hopeless, worth_a_proof

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

    def conclude(self, ledger: Ledger, *, assisted: bool) -> None:
        """The last word on seeds that trained to the end. Raises ``Interrupted``."""
        for seed in [seed for seed, fate in self.fates.items() if fate.state == "training"]:
            best = self._of_ledger(ledger, seed, best=True)
            last = self._of_ledger(ledger, seed, best=False)
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
        proof, tables = prove_checkpoint(checkpoint, limits=LIMITS, progress=self._heed)
        seed = self._seed(checkpoint)
        self._change(seed, proofs=self.fates[seed].proofs + 1)
        return self._take(checkpoint, proof, tables, "pure")

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
        return self._take(result.checkpoint, result.proof, exact_tables(result.checkpoint), route)

    def _take(self, checkpoint: Checkpoint, proof: Proof, tables: Tables, route: Route) -> bool:
        """Note a verdict; keep the files of a proved model."""
        seed, verdict = self._seed(checkpoint), proof.verdict
        if verdict.verdict == "proved":
            path = self.folder / f"seed_{seed:04d}.pt"
            make_folder(self.folder)
            save_checkpoint(path, checkpoint)
            certified = write_beside(path, certificate(proof, tables, checkpoint.weights_sha256))
            self._change(
                seed,
                state="proved",
                route=route,
                step=checkpoint.step,
                val_exact=checkpoint.val_exact,
                margin_bound=verdict.margin.bound,
                margin_witness=verdict.margin.witness,
                pair=verdict.margin.pair,
                checkpoint=str(path),
                certificate=str(certified),
            )
        self._told.judged(self.fates[seed], verdict.verdict)
        return verdict.verdict == "proved"

    def _heed(self, _: Progress) -> None:
        if self._stop.is_set():
            raise Interrupted

    def _change(self, seed: int, **values: object) -> None:
        self.fates[seed] = dataclasses.replace(self.fates[seed], **values)  # type: ignore[arg-type]

    @staticmethod
    def _seed(checkpoint: Checkpoint) -> int:
        assert checkpoint.seed is not None
        return checkpoint.seed

    def _of_ledger(self, ledger: Ledger, seed: int, *, best: bool) -> Checkpoint:
        row = ledger.rows[seed]
        if best:
            flat_N, _ = ledger.best_weights(seed)
            return self._checkpoint(seed, flat_N, row.best_step, row.best_val_exact)
        flat_N, step = ledger.last_weights(seed)
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
