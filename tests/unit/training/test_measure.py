"""The better of two measurements, seed by seed, and the best weights so far."""

from dataclasses import replace

import torch

from adderlab.training.measure import (
    Best,
    Evaluation,
    Measured,
    better,
)


def measured(exact: list[float], steps: list[float], margin: list[float]) -> Measured:
    return Measured(
        val_exact_S=torch.tensor(exact, dtype=torch.float64),
        val_token_acc_S=torch.tensor(exact, dtype=torch.float64) / 2,
        step_acc_SI=torch.tensor(steps, dtype=torch.float64)[:, None].expand(-1, 11),
        margin_S=torch.tensor(margin),
    )


ONE = measured([0.5, 0.5, 0.5, 0.5, 0.5], [0.8, 0.8, 0.8, 0.8, 0.8], [1.0, 1.0, 1.0, 1.0, 1.0])
OTHER = measured([0.6, 0.4, 0.5, 0.5, 0.5], [0.1, 0.9, 0.9, 0.8, 0.8], [0.0, 2.0, 0.0, 2.0, 1.0])


def test_exact_match_decides_then_steps_then_the_margin() -> None:
    chosen, is_other_S = better(ONE, OTHER)
    assert is_other_S.tolist() == [True, False, True, True, False]
    for row, other in enumerate(is_other_S.tolist()):
        source = OTHER if other else ONE
        assert chosen.score(row) == source.score(row)
        assert chosen.val_token_acc_S[row] == source.val_token_acc_S[row]
        assert torch.equal(chosen.step_acc_SI[row], source.step_acc_SI[row])


def evaluation(of: Measured, weight: float) -> Evaluation:
    S = len(of.val_exact_S)
    return Evaluation(
        step=0,
        lr=0.1,
        seeds=tuple(range(S)),
        train_loss_S=torch.zeros(S),
        weights_SN=torch.full((S, 2), weight),
        averaged_S=torch.zeros(S, dtype=torch.bool),
        val_exact_S=of.val_exact_S,
        val_token_acc_S=of.val_token_acc_S,
        step_acc_SI=of.step_acc_SI,
        margin_S=of.margin_S,
    )


def test_the_best_weights_are_those_of_the_best_evaluation() -> None:
    best = Best(torch.zeros(5, 2))
    assert best.weights_SN.abs().max() == 0
    best.take(evaluation(ONE, 1.0))
    best.take(evaluation(OTHER, 2.0))
    best.take(evaluation(ONE, 3.0))
    assert best.weights_SN[:, 0].tolist() == [2.0, 1.0, 2.0, 2.0, 1.0]
    best.keep([4, 0])
    assert best.weights_SN[:, 1].tolist() == [1.0, 2.0]
    assert best.scores[1][0] == 0.6


def test_the_weight_norm_of_a_row_is_its_own_among_others_and_alone() -> None:
    weights_SN = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    several = replace(evaluation(ONE, 0.0), weights_SN=weights_SN)
    norms = [several.metrics(row, 0.0).weight_norm for row in range(5)]
    assert norms == [float(weights_N.double().norm()) for weights_N in weights_SN]
    chosen = several.of((3, 1), [3, 1])
    assert [chosen.metrics(row, 0.0).weight_norm for row in range(2)] == [norms[3], norms[1]]
