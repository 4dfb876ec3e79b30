"""Repair: nothing to do for a proved model, a stated limit for the rest, 512p proved in a few rounds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adderlab.checker import check_file
from adderlab.cli.main import run_command
from adderlab.cli.proofs import Check, Repair
from adderlab.engine.base import choose_device, select_engine
from adderlab.errors import UsageError
from adderlab.evaluation.exact import decoder_for, evaluate
from adderlab.evaluation.suites import fresh
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.proof.prove import Progress, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.task.addition import get_layout
from adderlab.training.repair import RepairSettings, Round, repair
from helpers.models import config_of
from helpers.reference import disturbed, proved_model, reference_checkpoint


def test_a_proved_model_is_left_as_it_is() -> None:
    checkpoint = proved_model("67p")
    result = repair(checkpoint)
    assert result.proved and result.trainings == 0 and result.checkpoint is checkpoint


def test_what_its_progress_raises_ends_a_training() -> None:
    """A search that has what it wants waits for no repair."""

    class Enough(Exception):
        pass

    seen: list[int] = []

    def progress(at: Progress) -> None:
        if at.phase == "training":
            seen.append(at.done)
            if at.done >= 20:
                raise Enough

    with pytest.raises(Enough):
        repair(disturbed(proved_model()), limits=Limits(cells=0, union_seconds=0.1), progress=progress)
    assert seen == [0, 10, 20]


@pytest.mark.slow
def test_rounds_alternate_and_end_at_the_limit() -> None:
    """One step of training moves the weights, keeps everything else and proves nothing."""
    checkpoint = disturbed(proved_model())
    seen: list[Round] = []
    settings = RepairSettings(rounds=1, steps=1, batch_size=8)
    limits = Limits(cells=0, union_seconds=0.1)
    result = repair(checkpoint, settings, limits=limits, on_round=seen.append)
    assert not result.proved and result.trainings == 1 and tuple(seen) == result.rounds
    assert [each.witnesses > 0 for each in result.rounds] == [True, False]
    assert result.checkpoint.config == checkpoint.config
    assert result.checkpoint.step == checkpoint.step + 1
    moved = [(result.checkpoint.params[k] - v).abs().max() for k, v in checkpoint.params.items()]
    assert 0 < max(moved) <= 1.01 * settings.lr


@pytest.mark.slow
def test_margins_are_those_that_the_loss_of_the_training_saw() -> None:
    """A factor on the logits counts alike, the model's own or its recipe's."""
    plain = replace(disturbed(proved_model()), recipe={})
    inside = replace(plain, config=replace(config_of(plain), logit_scale=4.0), recipe={})
    outside = replace(plain, recipe={"logit_scale": 4})
    stages = [{"logit_scale": None}, {"logit_scale": 4.0}, {}]
    staged = replace(plain, recipe={"logit_scale": 2.0, "stages": stages})
    settings = RepairSettings(rounds=1, steps=3, batch_size=8)
    limits = Limits(cells=0, union_seconds=0.1)
    results = [repair(each, settings, limits=limits) for each in (inside, outside, staged, plain)]
    assert all(result.trainings == 1 for result in results)
    one, other, last, unscaled = (result.checkpoint.params for result in results)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)
        assert torch.equal(last[name], other[name])
    assert any((unscaled[name] - tensor).abs().max() > 1e-5 for name, tensor in one.items())
    for wrong in ("wide", 0, -1.0, None):
        with pytest.raises(UsageError, match="logit_scale"):
            repair(replace(plain, recipe={"logit_scale": wrong}), settings, limits=limits)


@pytest.mark.slow
def test_later_rounds_take_smaller_steps() -> None:
    """Adam's first step is as long as the rate, whatever the gradient."""
    checkpoint = disturbed(proved_model())
    limits = Limits(cells=0, union_seconds=0.1)

    def moved(rounds: int, decay: float) -> dict[str, torch.Tensor]:
        settings = RepairSettings(rounds=rounds, steps=1, batch_size=8, lr_decay=decay)
        return repair(checkpoint, settings, limits=limits).checkpoint.params

    one, two, even = moved(1, 0.25), moved(2, 0.25), moved(2, 1.0)
    for later, factor in ((two, 0.25), (even, 1.0)):
        largest = max((later[name] - tensor).abs().max() for name, tensor in one.items())
        assert largest == pytest.approx(factor * RepairSettings().lr, rel=0.01)


def test_what_cannot_be_repaired_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(n_layer=2)
    params = {name: p.detach() for name, p in build_model(config, seed=0).named_parameters()}
    two = Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=0.0)
    with pytest.raises(UsageError, match="2 layers"):
        repair(two)
    for name, value in (
        ("rounds", 0),
        ("steps", 0),
        ("lr", 0.0),
        ("target_margin", float("nan")),
        ("lr_decay", 1.5),
    ):
        with pytest.raises(UsageError, match=name):
            RepairSettings(**{name: value})  # type: ignore[arg-type]
    argv = ["missing.pt", "-o", str(tmp_path / "out.pt")]
    assert run_command(Repair, argv, "adderlab repair") == 2
    assert "missing.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_512p_is_repaired_proved_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 3 rounds; no error on 100,000 pairs; the checker accepts it, also as run in fp32."""
    source = reference_checkpoint("lowrank_512p_s42.pt")
    out, cert = tmp_path / "repaired.pt", tmp_path / "cert.json.gz"
    assert run_command(Repair, [str(source), "-o", str(out), "--json"], "adderlab repair") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["verdict"] == "proved"
        and printed["failing_pairs"] == 0
        and 1 <= printed["trainings"] <= 3
    )

    checkpoint = load_checkpoint(out)
    engine = select_engine("torch", checkpoint.config, choose_device("cpu")[0], threads=1, log=print)
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), engine)
    report = evaluate(decoder, get_layout(checkpoint.config.layout), fresh(100_000, 3))
    assert report.total.errors == 0

    prove_checkpoint(checkpoint).save(cert)
    checked = check_file(cert, checkpoint)
    assert checked.accepted and checked.margin is not None and checked.margin > 0
    assert checked.fp32 is not None and (checked.fp32.covered or checked.fp32.reason)
    assert Check(certificate=cert, checkpoint=out, real_only=True).run() == 0
    original = load_checkpoint(source)
    assert not check_file(cert, original, fp32=False).accepted
