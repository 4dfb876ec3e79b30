"""What a training run's own models come to on all pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adderlab.evaluation.exact import predict
from adderlab.evaluation.intervals import wilson
from adderlab.files.atomic import write_json
from adderlab.models.mapping import why_no_tables
from adderlab.proof.certificate import write_beside
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.folder import seed_folder
from adderlab.task.digits import from_digits
from adderlab.task.sampling import uniform_pairs
from adderlab.training.job import Outcome
from adderlab.training.tracker import SUCCESS

LIMITS = Limits(seconds=30.0)
WORTH_COUNTING = 0.9
"""Below this exact match a counterexample refutes a model; counting its failures would take minutes."""


def prove_outcome(
    outcome: Outcome,
    say: Callable[[str], None],
    told: Callable[[int, str], None] = lambda seed, verdict: None,
) -> None:
    """Decide every successful seed; ``proofs.json`` in the run folder, a certificate beside every
    proved checkpoint, the best one's verdict in words. A best seed far from success is refuted by one
    pair that it gets wrong. ``told`` gets (seed, verdict) as each is known."""
    reason = why_no_tables(outcome.best.config)
    if reason:
        say(f"No proof: {reason}.")
        return
    rows = outcome.tracker.rows
    grokked = [seed for seed, row in rows.items() if row.final_val_exact >= SUCCESS]
    best = outcome.tracker.best_seed
    if rows[best].best_val_exact < WORTH_COUNTING:
        say(_refutation(outcome.best))
        return
    proofs = {}
    for seed in dict.fromkeys([best, *grokked]):
        path = _checkpoint_path(outcome, seed)
        checkpoint = load_checkpoint(path)
        proof = prove_checkpoint(checkpoint, limits=LIMITS)
        proofs[seed] = proof.to_dict()
        told(seed, proof.verdict)
        if proof.verdict == "proved":
            write_beside(path, proof)
        if seed == best:
            say(f"All 10^20 pairs, for the best checkpoint ({path}):")
            for line in proof.describe():
                say(f"  {line}")
    write_json(outcome.folder / "proofs.json", {str(seed): proof for seed, proof in proofs.items()})
    proved = [seed for seed, proof in proofs.items() if proof["verdict"] == "proved"]
    if len(rows) > 1:
        seeds = f": seeds {', '.join(map(str, sorted(proved)))}" if proved else ""
        rate = wilson(len(proved), len(rows))
        say(f"{len(proved)} of {len(rows)} seeds are proved on all pairs, {rate}{seeds}.")


def _refutation(checkpoint: Checkpoint) -> str:
    """A pair that the real model, run in fp32, gets wrong."""
    model = checkpoint.model()
    for a, b in zip(*(from_digits(digits).tolist() for digits in uniform_pairs(0, 1000)), strict=True):
        answer = predict(model, a, b)
        if not answer.right:
            return f"REFUTED on all pairs by one: {a} + {b} = {a + b}, it answers {answer.answer}."
    return "No proof: the best checkpoint is far from success, yet 1,000 pairs did not refute it."


def _checkpoint_path(outcome: Outcome, seed: int) -> Path:
    """A kept seed's best checkpoint; that of a single seed lies in the run's own folder."""
    alone = len(outcome.tracker.rows) == 1
    folder = outcome.folder if alone else seed_folder(outcome.folder, seed)
    return folder / "checkpoints" / "best.pt"
