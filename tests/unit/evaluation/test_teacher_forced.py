"""Step accuracy from margins, and its agreement with greedy decoding."""

import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import decoder_for, evaluate
from adderlab.evaluation.suites import Suite, strata
from adderlab.evaluation.teacher_forced import exact_match, step_accuracy
from adderlab.models.mapping import tables
from adderlab.runs.checkpoints import load_checkpoint
from helpers.reference import reference_checkpoint


def test_by_hand() -> None:
    margin_SBA = torch.ones(2, 4, 12)
    margin_SBA[0, 0, 2] = -1.0
    margin_SBA[0, 1, 2] = 0.0
    margin_SBA[1, 3, 11] = -5.0  # the end token does not count
    margin_SBA[1, 3, 10] = float("nan")
    accuracy_SI = step_accuracy(margin_SBA)
    assert accuracy_SI.shape == (2, 11)
    assert accuracy_SI[0].tolist() == [1, 1, 0.5, *[1] * 8]
    assert accuracy_SI[1].tolist() == [*[1] * 10, 0.75]
    assert exact_match(margin_SBA).tolist() == [0.5, 0.75]


def test_all_steps_right_is_exact_match() -> None:
    """On pairs that the 512p file partly fails."""
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_512p_s42.pt"))
    group = next(g for g in strata(500).groups if g.name == "complements to 10000000000")
    engine, params = TorchEngine(1), checkpoint.stacked()
    form = tables(checkpoint.config, params)
    tokens_BP, targets_BA = form.form.layout.encode(group.a_BJ, group.b_BJ)
    margin_SBA = engine.margins(form, tokens_BP[None], targets_BA[None])
    report = evaluate(
        decoder_for(checkpoint.config, params, engine),
        form.form.layout,
        Suite(name="one", groups=(group,)),
    )
    assert report.total.errors > 0
    assert exact_match(margin_SBA).tolist() == [report.total.exact_match]
