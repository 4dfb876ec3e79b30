"""Evaluations made up for the views."""

import torch

from adderlab.training.measure import Evaluation


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
