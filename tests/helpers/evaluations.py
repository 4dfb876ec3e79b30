"""Evaluations made up for the views."""

import torch

from adderlab.runs.records import SeedRecord
from adderlab.training.measure import Evaluation, Listener


def evaluation(step: int, seeds: tuple[int, ...], exact: list[float], loss: float = 0.5) -> Evaluation:
    S = len(seeds)
    learned_SI = torch.full((S, 11), 0.1, dtype=torch.float64)
    for s, share in enumerate(exact):
        learned_SI[s, : round(11 * share)] = 1.0
    return Evaluation(
        step=step,
        lr=0.02,
        seeds=seeds,
        train_loss_S=torch.full((S,), loss),
        val_exact_S=torch.tensor(exact, dtype=torch.float64),
        val_token_acc_S=learned_SI.mean(1),
        step_acc_SI=learned_SI,
        margin_S=torch.zeros(S),
        weights_SN=torch.zeros(S, 3),
        averaged_S=torch.zeros(S, dtype=torch.bool),
    )


class Followed:
    """A listener that is given evaluations with the records that a run would make of them."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.records: dict[int, SeedRecord] = {}

    def evaluate(self, each: Evaluation) -> None:
        for row, seed in enumerate(each.seeds):
            before = self.records.get(seed, SeedRecord(seed=seed))
            self.records[seed] = before.after(each.metrics(row, 0.0), each.score(row))
        self.listener.on_evaluation(each, tuple(self.records[seed] for seed in each.seeds))
