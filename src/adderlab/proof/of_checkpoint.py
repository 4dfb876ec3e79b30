"""Proofs about checkpoints: tables in float64 from the stored weights, answers by the real model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adderlab.errors import UsageError
from adderlab.evaluation.predict import predict
from adderlab.models.mapping import tables, why_no_tables
from adderlab.models.tables import Tables
from adderlab.models.transformer import Transformer
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import Progress, Proof, prove_problem
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint


def exact_tables(checkpoint: Checkpoint) -> Tables:
    """The tables of the stored fp32 weights, worked out in float64.

    Raises ``UsageError`` for models outside the table form.
    """
    reason = why_no_tables(checkpoint.config)
    if reason:
        raise UsageError(f"this model cannot be proved: {reason}; adderlab attack can test it")
    with torch.no_grad():
        return tables(checkpoint.config, {n: t.double() for n, t in checkpoint.stacked().items()})


def greedy_answer(model: Transformer) -> Callable[[int, int], int]:
    """The model's own answer to a + b as a number; -1 where it is no number."""

    def answer(a: int, b: int) -> int:
        text = predict(model, a, b).answer
        return int(text) if text.isdigit() else -1

    return answer


def prove_checkpoint(
    checkpoint: Checkpoint,
    *,
    limits: Limits | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Proof, Tables]:
    """Decide all pairs for a checkpoint; a counterexample is run through the real model in fp32.

    Returns the proof and the tables it is about (for the certificate). Raises ``UsageError`` for
    models outside the table form.
    """
    form = exact_tables(checkpoint)
    confirm = greedy_answer(checkpoint.model())
    proof = prove_problem(problem_from_tables(form), limits=limits, progress=progress, confirm=confirm)
    return proof, form
