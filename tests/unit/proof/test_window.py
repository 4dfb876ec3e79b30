"""Prover and checker against the truth: every pair of a window, tried by the readable module.

Weights are trained ones; where failures are planted, one weight is moved until a few pairs of the window
fail, and the counts have to agree pair for pair.
"""

import dataclasses
import json

import pytest
import torch

import adderlab as al
from adderlab.api.models import Model, load
from adderlab.errors import UsageError
from adderlab.proof.trials import Window, WindowReport, WindowTrial, window_disagreements
from helpers.paths import ROOT
from helpers.reference import reference_checkpoint

BEST = ROOT / "records" / "best"
RECORDS = sorted(folder.name for folder in BEST.iterdir() if folder.is_dir())
PLANTED = [
    # record, seed of the window, weight, its number, factor, failing pairs
    ("456p", 2, "pos_emb.B", 1, 1.1025390625, 2),
    ("67p", 4, "blocks.0.attn.query.angle", 0, 1.0225, 3),
    ("62p", 7, "blocks.0.ln2.weight", 0, 1.08, 100),
]


def nudged(name: str, weight: str, number: int, factor: float) -> Model:
    model = load(BEST / name / "model.pt")
    changed = model.params[weight].clone()
    changed.view(-1)[number] *= factor
    return dataclasses.replace(model, params={**model.params, weight: changed})


def agreeing(report: WindowReport) -> WindowReport:
    assert report.disagreements == (), "\n".join(report.describe())
    return report


@pytest.mark.parametrize(("name", "seed", "weight", "number", "factor", "failing"), PLANTED)
def test_planted_failures_are_counted_exactly(name, seed, weight, number, factor, failing) -> None:
    model = nudged(name, weight, number, factor)
    report = agreeing(al.prove_window(model, 2, seed=seed))
    assert report.float64.failing_pairs == report.verdict.failing_pairs == failing
    assert report.verdict.failing_by_step == report.float64.failing_by_step
    assert report.check is not None and not report.check.accepted
    assert report.check.counterexample_confirmed


def test_a_right_window_is_proved_and_checked_with_its_fp32() -> None:
    report = agreeing(al.prove_window(BEST / "456p" / "model.pt", (4, 6), seed=3, fp32=True))
    assert report.window.columns == (4, 6) and report.window.num_pairs == 10**4
    assert report.verdict.verdict == "proved" and report.check.accepted
    assert report.check.pairs_per_step == 10**4 and report.check.fp32.covered
    assert report.verdict.margin.bound == pytest.approx(report.float64.margin, rel=0.01)
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert value["agree"] and value["columns"] == [4, 6] and value["float64"]["failing_pairs"] == 0
    assert "THEY AGREE" in report.describe()


@pytest.mark.slow
def test_two_heads() -> None:
    report = agreeing(al.prove_window(reference_checkpoint("qwen3_155p_lbfgs.npz"), 1, seed=0))
    assert report.verdict.verdict == "proved" and report.check.accepted


def test_what_cannot_be_true_is_found() -> None:
    right = WindowTrial(failing_pairs=0, failing_by_step=(0,) * 11, ties=0, margin=1.0, pair=(1, 2))
    wrong = dataclasses.replace(right, failing_pairs=1, failing_by_step=(0, 1, *[0] * 9), margin=-1.0)
    proved = al.prove_window(BEST / "8p" / "model.pt", 1)
    agreeing(proved)
    verdict = dataclasses.replace(
        proved.verdict, margin=dataclasses.replace(proved.verdict.margin, bound=1.0, witness=1.0)
    )
    check = dataclasses.replace(proved.check, margin=1.0, witness=(1.0, 1.0))
    assert window_disagreements(right, right, verdict, check) == []
    said = window_disagreements(wrong, wrong, verdict, check)
    assert [line.split(":")[0] for line in said[:2]] == ["pairs", "digit s_1"]
    assert any("bound" in line for line in said) and any("accepts" in line for line in said)
    refused = dataclasses.replace(check, accepted=False, reason="no")
    assert "does not accept" in window_disagreements(right, right, verdict, refused)[0]
    above = dataclasses.replace(right, margin=2.0)
    assert (
        sum(
            "is below every margin" in line
            for line in window_disagreements(above, right, verdict, check)
        )
        == 2
    )
    counted = dataclasses.replace(verdict, failing_pairs=(2, 5))
    assert "by trial, 2 to 5 by proof" in window_disagreements(right, right, counted, None)[0]


def test_windows_are_drawn_and_hold_their_pairs() -> None:
    window = Window(columns=(0, 9), a=1234567890, b=9876543210)
    a_BJ, b_BJ = window.pairs()
    assert len(a_BJ) == window.num_pairs == 10**4
    both = torch.cat([a_BJ, b_BJ], 1)
    assert len(both.unique(dim=0)) == 10**4
    given = torch.tensor(window.given)
    assert (given == -1).sum() == 4 and ((both == given) | (given == -1)).all()
    assert Window.draw(3, 5) == Window.draw(3, 5) != Window.draw(3, 6)
    for columns in (0, 4, (), (1, 1), (10,), (0, 1, 2, 3)):
        with pytest.raises(UsageError, match="a window has 1 to 3"):
            Window.draw(columns, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(14))
@pytest.mark.parametrize("name", RECORDS)
def test_windows_of_every_record(name: str, seed: int) -> None:
    agreeing(al.prove_window(BEST / name / "model.pt", 2, seed=100 + seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lowrank_512p_s42.pt", "qwen3_122p.npz", "qwen3_155p_lbfgs.npz"])
@pytest.mark.parametrize("seed", range(6))
def test_windows_of_models_that_fail(name: str, seed: int) -> None:
    agreeing(al.prove_window(reference_checkpoint(name), 2, seed=seed))


@pytest.mark.slow
def test_a_million_pairs() -> None:
    assert agreeing(al.prove_window(BEST / "456p" / "model.pt", 3)).window.num_pairs == 10**6
