"""What seeds come to on all 10^20 pairs: proved, refuted or undecided, as trained or repaired.

A run asks for the verdict on the seeds that succeeded (``prove_seeds``), a rate for that of every seed
(``verify_seed``): its last weights are tried first, then its best by validation. The published test
sets are looked at once, afterwards, and choose nothing. A search follows its seeds while they train
(``SeedVerifier``): which are worth a proof, which are hopeless.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.engine.base import Engine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import decoder_for, evaluate
from adderlab.evaluation.suites import Suite
from adderlab.files.atomic import make_folder
from adderlab.models.config import ModelConfig
from adderlab.models.tables import why_no_tables
from adderlab.proof.certificate import certificate, write_beside
from adderlab.proof.prove import Progress, Proof, Verdict, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from adderlab.runs.folder import seed_folder
from adderlab.runs.records import SUCCESS, Metrics, Repair, SeedRecord, Weights, best_of
from adderlab.training.measure import Evaluation, SeedTracker
from adderlab.training.recipe import Recipe
from adderlab.training.repair import RepairSettings, repair
from adderlab.training.run import BrokenOff
from adderlab.workers import sharing

RUN_LIMITS = Limits(seconds=30.0)
"""For the seeds of a run that has just been trained."""
WORTH_COUNTING = 0.9
"""Below this exact match a counterexample refutes a model; counting its failures would take minutes."""
REPAIRED_FILE = "repaired.pt"

_QUICK = Limits(cells=0, seconds=15.0, union_seconds=0.0)
"""The leaf pass alone: proves most right models and finds a wrong pair of most wrong ones."""


@dataclass(frozen=True, kw_only=True)
class Assistance:
    """Which seeds of a rate are repaired, and how hard; the rest is ``training.repair``'s default."""

    exact: float = 0.9
    """A seed that is not proved is repaired from this exact match on, of its last or best weights."""
    missing: int = 0
    """A seed is repaired too if it misses at most so many answer steps at the end; 0: none is."""
    rounds: int = 5
    seconds: float = 10.0
    """Wall time of each proof between two trainings."""

    def __post_init__(self) -> None:
        if not 0 <= self.exact <= 1:
            raise UsageError(f"repair needs an exact match from 0 to 1, not {self.exact}")
        if self.missing < 0 or self.rounds < 1 or not self.seconds > 0:
            raise UsageError(
                "repair needs missing at least 0, rounds at least 1 and seconds above 0, not "
                f"{self.missing}, {self.rounds} and {self.seconds}"
            )


def verdict_fields(found: Verdict) -> dict[str, Any]:
    """A proof's verdict as the fields that a seed's record and its repair have for it."""
    return {
        "verdict": found.verdict,
        "margin_bound": found.margin.bound if found.verdict == "proved" else None,
        "margin_witness": found.margin.witness if math.isfinite(found.margin.witness) else None,
        "worst_pair": found.margin.pair,
        "checked": found.checked,
    }


def checked(
    proof: Proof,
    checkpoint: Checkpoint,
    progress: Callable[[Progress], None] | None = None,
    *,
    threads: int | None = 1,
) -> Proof:
    """The same proof with the word of the independent checker, if it claims to be one and python-flint
    is installed; ``threads``: how many processes check its steps, None for one on each core. Real
    arithmetic only: ``check`` on the certificate answers for fp32 too."""
    if proof.verdict != "proved":
        return proof
    try:
        from adderlab.checker.own_pass import WrongMap
        from adderlab.checker.verify import check_document
    except ModuleNotFoundError as error:
        if error.name != "flint":
            raise
        return proof

    def advance(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(phase="check", done=done, total=total))

    try:
        report = check_document(
            certificate(proof), checkpoint, progress=advance, fp32=False, share=sharing(threads)
        )
    except Failure as failure:
        if isinstance(checkpoint.config, ModelConfig) or isinstance(failure, WrongMap):
            raise
        # A user's file may do what the prover knows and the checker does not: then it stays unchecked.
        return dataclasses.replace(proof, reason=f"The checker cannot check it: {failure}.")
    seconds = proof.seconds + report.seconds
    if report.accepted:
        return dataclasses.replace(proof, checked=True, seconds=seconds)
    return dataclasses.replace(
        proof,
        verdict="undecided",
        failing_pairs=(0, proof.problem.num_pairs),
        checked=False,
        reason=f"The checker does not accept the certificate: {report.reason}.",
        seconds=seconds,
    )


def decide(checkpoint: Checkpoint, limits: Limits) -> Verdict:
    """The verdict, checked; failing pairs of a wrong model are not counted if one is found early."""
    found = prove_checkpoint(checkpoint, limits=_QUICK)
    if found.verdict == "undecided":
        found = prove_checkpoint(checkpoint, limits=limits)
    return checked(found, checkpoint).summary


def prove_seeds(
    folder: Path,
    records: Sequence[SeedRecord],
    on_verdict: Callable[[SeedRecord, Verdict], None] = lambda record, found: None,
) -> tuple[dict[int, SeedRecord], dict[int, Verdict]]:
    """Decide the best checkpoints of a finished run: of the best seed, and of all that end at 99% or
    more. The records of these seeds with what was found, and the verdicts; a certificate lies beside
    every proved checkpoint. Nothing, if the best is far from success.

    ``folder`` is the run's. Raises ``Failure`` if a checkpoint cannot be read.
    """
    best = best_of(records)
    if best.best_exact < WORTH_COUNTING or why_no_tables(_best_checkpoint(folder, best).config):
        return {}, {}
    found: dict[int, SeedRecord] = {}
    verdicts: dict[int, Verdict] = {}
    for record in [best, *(each for each in records if each.succeeded and each.seed != best.seed)]:
        started = time.process_time()
        checkpoint = _best_checkpoint(folder, record)
        assert checkpoint.path is not None
        proof = checked(prove_checkpoint(checkpoint, limits=RUN_LIMITS), checkpoint)
        verdicts[record.seed] = proof.summary
        certified = None
        if proof.verdict == "proved":
            certified = write_beside(checkpoint.path, proof).relative_to(folder).as_posix()
        found[record.seed] = dataclasses.replace(
            record,
            weights="best",
            certificate=certified,
            proofs=record.proofs + 1,
            proving_core_seconds=time.process_time() - started,
            **verdict_fields(proof),
        )
        on_verdict(found[record.seed], verdicts[record.seed])
    return found, verdicts


def _best_checkpoint(folder: Path, record: SeedRecord) -> Checkpoint:
    """Of a kept seed in a folder of its own; of the best one, or a single one, in the run's."""
    own = seed_folder(folder, record.seed) / "checkpoints" / "best.pt"
    return load_checkpoint(own if own.is_file() else folder / "checkpoints" / "best.pt")


def verify_seed(
    record: SeedRecord, checkpoints: Path, limits: Limits, engine: Engine, published: Suite
) -> SeedRecord:
    """The record of a trained seed with its verdict, without repair. ``checkpoints``: the folder of its
    best.pt and last.pt."""
    started = time.process_time()
    fields, proofs = _verdict(record, checkpoints, limits)
    seconds = time.process_time() - started if proofs else 0.0
    errors = None
    if record.best_exact >= SUCCESS:
        chosen = fields["weights"] if fields["verdict"] == "proved" else "best"
        errors = count_errors(load_checkpoint(checkpoints / f"{chosen}.pt"), engine, published)
        record = dataclasses.replace(record, checkpoint=_beside(record, f"{chosen}.pt"))
    return dataclasses.replace(
        record, proofs=proofs, published_errors=errors, proving_core_seconds=seconds, **fields
    )


def _beside(record: SeedRecord, name: str) -> str | None:
    """Where the record's checkpoint lies, another one of the seed."""
    return record.checkpoint and Path(record.checkpoint).with_name(name).as_posix()


def _verdict(record: SeedRecord, checkpoints: Path, limits: Limits) -> tuple[dict[str, Any], int]:
    """The best verdict among the weights that reached success, of equals that of the last weights, as
    fields of a record; and how many proofs it took."""
    if record.best_exact < SUCCESS:
        return {"verdict": "missed", "weights": None}, 0
    loaded: dict[Weights, Checkpoint] = {}
    choices: tuple[tuple[Weights, float], ...] = (
        ("last", record.last_exact),
        ("best", record.best_exact),
    )
    tried: list[tuple[Weights, Verdict]] = []
    for weights, exact in choices:
        if exact < SUCCESS:
            continue
        checkpoint = load_checkpoint(checkpoints / f"{weights}.pt")
        if why_no_tables(checkpoint.config):
            return {"verdict": "no tables", "weights": None}, 0
        if any(checkpoint.weights_sha256 == other.weights_sha256 for other in loaded.values()):
            continue
        loaded[weights] = checkpoint
        tried.append((weights, decide(checkpoint, limits)))
        if tried[-1][1].verdict == "proved":
            break
    order = ("proved", "undecided", "refuted")
    weights, found = min(tried, key=lambda each: order.index(each[1].verdict))
    return {"weights": weights, **verdict_fields(found)}, len(tried)


def worth_repair(record: SeedRecord, assistance: Assistance) -> bool:
    """Whether a seed that is not proved is near enough."""
    if record.verdict in ("proved", "no tables"):
        return False
    near = max(record.last_exact, record.best_exact) >= assistance.exact
    return near or (assistance.missing > 0 and record.missing_steps <= assistance.missing)


def repair_seed(
    record: SeedRecord,
    checkpoints: Path,
    assistance: Assistance,
    limits: Limits,
    engine: Engine,
    published: Suite,
) -> SeedRecord:
    """The record with what repair made of the seed; its weights become ``repaired.pt``."""
    weights = "last" if record.last_exact >= record.best_exact else "best"
    started = time.process_time()
    result = repair(
        load_checkpoint(checkpoints / f"{weights}.pt"),
        RepairSettings(rounds=assistance.rounds, seed=record.seed),
        limits=Limits(cells=limits.cells, seconds=assistance.seconds, union_seconds=0.0),
    )
    found, proofs = checked(result.proof, result.checkpoint).summary, len(result.rounds)
    if found.verdict == "undecided":
        found, proofs = decide(result.checkpoint, limits), proofs + 1
    seconds = time.process_time() - started
    save_checkpoint(checkpoints / REPAIRED_FILE, result.checkpoint)
    proved = found.verdict == "proved"
    return dataclasses.replace(
        record,
        checkpoint=_beside(record, REPAIRED_FILE) if proved else record.checkpoint,
        proofs=record.proofs + proofs,
        repair=Repair(
            trainings=result.trainings,
            published_errors=count_errors(result.checkpoint, engine, published),
            core_seconds=seconds,
            step=result.checkpoint.step,
            **verdict_fields(found),
        ),
    )


def count_errors(checkpoint: Checkpoint, engine: Engine, suite: Suite) -> int:
    """Pairs of a suite that a model gets wrong."""
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), engine)
    return evaluate(decoder, checkpoint.config.token_layout, suite).total.errors


# Seeds followed while they train.
#
# Proofs are about the very weights that an evaluation measured, before anything is trained on. The
# pure route ends there. On the assisted route a seed that ends unproved but nearly right is repaired
# (``training.repair``); the two are counted apart.


STUCK_BELOW = 0.9
"""An answer step that never was this accurate looks at the wrong column or ignores the carry."""
PATIENCE = 0.2
"""Fraction of the run over which a stuck step's pace is measured."""
LIMITS = Limits(cells=100_000, seconds=20.0, union_seconds=0.0)
"""For verdicts; failing pairs are not counted."""
REPAIR_ROUNDS = 2
"""What two do not repair, five rarely did."""
REPAIR_PAIRS = 10_000_000
"""A round takes about 16 core-seconds, in which a 456p trains on 18 million pairs. Where a seed's whole
training sees fewer pairs than this, fresh seeds are proved sooner than failed ones are repaired."""


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
    digits = range(len(now.step_acc))
    if not open_from(recipe) + wait <= now.step < recipe.steps - 1 or not digits:
        return False
    before = [metrics for metrics in history if metrics.step <= now.step - wait]
    stuck = [i for i in digits if _best(history, i) < STUCK_BELOW]
    if not stuck or any(_best(before, i) < STUCK_BELOW for i in digits if i not in stuck):
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


def worth_a_repair(recipe: Recipe) -> bool:
    """Whether fresh seeds take longer than the repair of one that ends nearly right."""
    steps = recipe.total_steps
    seed_steps = recipe.restarts.seed_steps(steps) if recipe.restarts else steps
    return seed_steps * recipe.batch_size >= REPAIR_PAIRS


class Interrupted(BrokenOff):
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
        on_activity: Callable[[int, str], None] = lambda seed, doing: None,
        threads: int = 1,
        on_cores: Callable[[bool], None] = lambda taken: None,
    ) -> None:
        """``folder``: where proved checkpoints and certificates go. ``histories``: the evaluations of
        seeds that are gone on with. ``on_activity``: told before a seed is proved, its proof checked, or
        the seed repaired. ``threads``: processes that prove and check. ``on_cores``: told before they
        are at work, and after."""
        self.recipe, self.folder, self.threads = recipe, folder, threads
        self._on_cores, self._has_cores = on_cores, False
        self.files: dict[int, tuple[Path, Path]] = {}
        """Checkpoint and certificate of every proved seed."""
        self._histories = {seed: list(known) for seed, known in (histories or {}).items()}
        self._on_verdict, self._on_activity, self._stop = on_verdict, on_activity, stop

    def verify(self, evaluation: Evaluation, tracker: SeedTracker) -> None:
        """After an evaluation: prove what looks right, drop what is hopeless. Raises ``Interrupted`` for
        a seed that trains alone; of several, the others' verdicts stand."""
        if evaluation.step == self.recipe.total_steps - 1:
            return  # ``conclude`` has the last word
        for row, seed in enumerate(evaluation.seeds):
            history = self._note(evaluation, row)
            if hopeless(history, self.recipe):
                self._decide(tracker, seed, "dropped", status="dropped")
            elif worth_a_proof(history):
                weights_N, exact = evaluation.weights_on_cpu_SN[row], history[-1].val_exact
                checkpoint = tracker.checkpoint(seed, weights_N, evaluation.step, exact)
                try:
                    self._prove(tracker, checkpoint, "last")
                except Interrupted:
                    if len(tracker.records) == 1:
                        raise
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
            near = assisted and best.val_exact >= SUCCESS and worth_a_repair(self.recipe)
            if not proved and near:
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
        seed = _seed(checkpoint)
        self._on_activity(seed, "proving")
        record = tracker.records[seed]
        known = [record.worst_pair] if record.verdict == "refuted" and record.worst_pair else []
        proof = prove_checkpoint(
            checkpoint,
            limits=LIMITS,
            progress=self._follow,
            known=known,
            counting=False,
            threads=self.threads,
        )
        if proof.verdict == "proved":
            self._on_activity(seed, "checking")
        proof = self._checked(proof, checkpoint)
        proved = proof.verdict == "proved"
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

    def _checked(self, proof: Proof, checkpoint: Checkpoint) -> Proof:
        """By all cores."""
        self._take_cores(proof.verdict == "proved")
        return checked(proof, checkpoint, self._check_stop, threads=self.threads)

    def _repair(self, tracker: SeedTracker, checkpoint: Checkpoint) -> bool:
        seed = _seed(checkpoint)
        self._on_activity(seed, "repairing")
        result = repair(
            checkpoint,
            RepairSettings(rounds=REPAIR_ROUNDS),
            limits=LIMITS,
            progress=self._check_stop,
        )
        found = self._checked(result.proof, result.checkpoint)
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
        # Not before it is out, for it may be the last that the search waits for. Where a proof breaks
        # off, the search takes the cores back with the batch.
        self._take_cores(False)

    def _follow(self, proof: Progress) -> None:
        """The leaf pass is done by all cores, the branch and bound after it by one."""
        self._check_stop(proof)
        if proof.phase in ("leaves", "search"):
            self._take_cores(proof.phase == "leaves")

    def _take_cores(self, taken: bool) -> None:
        if self.threads > 1 and taken != self._has_cores:
            self._has_cores = taken
            self._on_cores(taken)

    def _check_stop(self, _: Progress) -> None:
        if self._stop.is_set():
            raise Interrupted


def _seed(checkpoint: Checkpoint) -> int:
    assert checkpoint.seed is not None
    return checkpoint.seed
