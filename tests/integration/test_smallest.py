"""Our own line: what docs/smallest.md says of the records of 11, 8 and 7 parameters."""

import dataclasses
import importlib.util
import math

import pytest
import torch

from adderlab.checker import check_file
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.proof.prove import prove_checkpoint
from adderlab.recipes import best_name, quick_name
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.task.addition import pairs_from_ints
from adderlab.training.ingredients import log_attention, wanted_attention
from helpers.models import config_of
from helpers.paths import ROOT

NAMES = ("11p", "8p", "7p")
OWN = pytest.mark.parametrize("name", NAMES)


def record(name: str) -> Checkpoint:
    return load_checkpoint(ROOT / "records" / "best" / name / "model.pt")


@OWN
def test_a_record_is_the_preset_and_nothing_more(name: str) -> None:
    checkpoint = record(name)
    assert checkpoint.config == get_preset(name).config
    assert checkpoint.num_parameters == int(name[:-1])
    assert not list(checkpoint.module().buffers())


def test_no_answer_of_the_7p_depends_on_its_temperature() -> None:
    checkpoint = record("7p")
    assert config_of(checkpoint).logit_scale == 300.0
    cold = dataclasses.replace(
        checkpoint, config=dataclasses.replace(config_of(checkpoint), logit_scale=1.0)
    )
    proof = prove_checkpoint(cold)
    assert proof.verdict == "proved"
    warm = prove_checkpoint(checkpoint)
    assert warm.margin.bound is not None
    assert proof.margin.bound == pytest.approx(warm.margin.bound / 300, rel=1e-3)


@OWN
def test_nines_complement_is_the_mirror(name: str) -> None:
    """Turn the sign of the last content channel, and the logits come in the opposite order."""
    model = build_model(get_preset(name).config, 3)
    stream_ND = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    mirrored_ND = stream_ND * torch.tensor([1.0, -1.0, 1.0, 1.0])
    block = model.block(0)
    with torch.no_grad():
        plain_NV, other_NV = (
            model.read_out(x_ND + block.mlp(block.ln2(x_ND))) for x_ND in (stream_ND, mirrored_ND)
        )
    torch.testing.assert_close(plain_NV, other_NV.flip(1))


def test_every_query_looks_alike() -> None:
    """Of each answer step: the own column, and a tenth as much for the one below. (The top one sees a
    separator more where others see the column after next.)"""
    checkpoint = record("7p")
    tokens_BP, _ = checkpoint.config.token_layout.encode(*pairs_from_ints([(1234567890, 9876543210)]))
    log_RBAHP = log_attention(config_of(checkpoint), checkpoint.stacked(), tokens_BP.long()[None])
    weight_AP = log_RBAHP[0, 0, :, 0].exp()
    own_AP = wanted_attention(config_of(checkpoint), 0.0) > 0
    own_A = weight_AP[own_AP].reshape(11, 2)
    assert (own_A - own_A[5]).abs().max() < 1e-3
    assert own_A.min() > 0.4 and own_A.max() < 0.45
    below_AP = (wanted_attention(config_of(checkpoint), 0.1) > 0) & ~own_AP
    below_A = weight_AP[below_AP].reshape(11, 2)
    assert (below_A - below_A[5]).abs().max() < 1e-3


def test_places_of_the_circle() -> None:
    """A turn by a twelfth takes every query to the place of the column it asks for."""
    model = build_model(get_preset("7p").config, 0)
    layout = model.layout
    assert model.pos_emb is not None
    place_PW = model.pos_emb(torch.arange(layout.num_positions))
    angle_P = torch.atan2(place_PW[:, 1], place_PW[:, 0])
    for i, query in enumerate(layout.query_positions):
        for first in (layout.a_positions[0], layout.b_positions[0]):
            turn = (angle_P[first + i] - angle_P[query]) % (2 * math.pi)
            assert turn == pytest.approx(2 * math.pi / 12)
    assert torch.allclose(place_PW.norm(dim=1), torch.ones(layout.num_positions).double())


@OWN
def test_the_best_recipe_is_the_measured_one(name: str) -> None:
    recipe = "generic-7" if name == "7p" else "generic-8"
    assert best_name(get_preset(name)) == quick_name(get_preset(name)) == recipe


def test_the_anatomy_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("anatomy", ROOT / "experiments/smallest_anatomy.py")
    assert spec is not None and spec.loader is not None
    anatomy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anatomy)
    assert anatomy.main([str(ROOT / "records/best/7p/model.pt")]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-20:][0].startswith(" 0") and printed.splitlines()[-1].startswith("19")
    assert anatomy.main([str(ROOT / "records/best/57p/model.pt")]) == 2
    assert "give a 11p, 8p or 7p" in capsys.readouterr().err


def test_the_independent_checker_accepts_the_7p() -> None:
    folder = ROOT / "records" / "best" / "7p"
    report = check_file(folder / "model.cert.json.gz", record("7p"))
    assert report.accepted
    assert report.fp32 is not None and report.fp32.covered
