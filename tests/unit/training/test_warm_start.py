"""Seeds that start from a trained model compute what it computes, in a larger model too; runs go on."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import adderlab
from adderlab.cli.main import main
from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.metadata import read_summary, start_of
from adderlab.training.recipe import Recipe
from adderlab.training.start import check_encloses, start, warm
from helpers.reference import proved_path

QUICK = {
    **{"recipe.steps": 20, "recipe.warmup_steps": 2, "recipe.batch_size": 16},
    **{"recipe.eval_interval": 10, "recipe.val_size": 50, "recipe.stages": []},
}


def _model(config: ModelConfig, seed: int = 0) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: torch.randn(parameter.shape, generator=generator) * 0.5 + 0.3
        for name, parameter in build_model(config, 0).named_parameters()
    }
    return Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=math.nan)


ENCLOSING: dict[str, tuple[str, dict[str, Any]]] = {
    "hidden units": ("456p", {"d_ff": 20}),
    "hidden units of full maps": ("122p", {"d_ff": 5}),
    "ranks": ("456p", {"pos_rank": 5, "qkv_rank": 4, "attn_out_rank": 3, "ffn_rank": 6}),
    "ranks and hidden units": ("512p", {"ffn_rank": 4, "d_ff": 20}),
    "full ranks": ("512p", {"pos_rank": 0, "qkv_rank": 0, "attn_out_rank": 0, "ffn_rank": 0}),
    "norms apart": ("67p", {"share_norms": "none"}),
    "an ellipse and a learned spiral": ("67p", {"tokens": "ellipse", "positions": "spiral"}),
    "queries and keys apart": ("67p", {"tie_qkv": "separate"}),
    "keys and values apart": ("89p", {"tie_qkv": "separate"}),
    "all maps apart": ("44p", {"tie_qkv": "separate"}),
    "a second map of its own": ("57p", {"fc2": "map", "d_ff": 4}),
    "more position rows": ("512p", {"position_rows": 40}),
    "the same model": ("7p", {}),
}


@pytest.mark.parametrize("name", ENCLOSING)
def test_an_enclosing_model_begins_as_the_trained_one(name: str) -> None:
    preset, changes = ENCLOSING[name]
    source = _model(get_preset(preset).config)
    config = dataclasses.replace(source.config, **changes)  # type: ignore[type-var]
    assert isinstance(config, ModelConfig)
    check_encloses(config, source)
    drawn = start(config, Recipe(), (3, 4))
    started = warm(config, source, drawn)
    assert {n: t.shape for n, t in started.items()} == {n: t.shape for n, t in drawn.items()}
    layout = config.token_layout
    tokens_BT = torch.randint(0, layout.base, (4, layout.num_positions))
    want = source.module().double()(tokens_BT)
    for s in range(2):
        params = {name: tensor[s] for name, tensor in started.items()}
        grown = dataclasses.replace(source, config=config, params=params).module().double()
        torch.testing.assert_close(grown(tokens_BT), want, rtol=1e-5, atol=1e-5)


def test_what_is_new_can_learn_and_differs_between_seeds() -> None:
    source = _model(get_preset("456p").config)
    config = dataclasses.replace(get_preset("456p").config, ffn_rank=4)
    started = warm(config, source, start(config, Recipe(), (3, 4)))
    first, second = started["blocks.0.mlp.fc1.A"], started["blocks.0.mlp.fc1.B"]
    assert torch.equal(first[0, :, :3], source.params["blocks.0.mlp.fc1.A"])
    assert first[:, :, 3].abs().min() > 0 and second[:, 3].abs().max() == 0
    assert not torch.equal(first[0, :, 3], first[1, :, 3])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"d_model": 8}, "model.d_model=7, not 8"),
        ({"d_ff": 10}, "model.d_ff=14, not 10"),
        ({"pos_rank": 2}, "model.pos_rank=3, not 2"),
        ({"norm": "layer"}, "model.norm=rms, not layer"),
        ({"activation": "relu"}, "model.activation=gelu, not relu"),
    ],
)
def test_a_model_that_does_not_enclose_the_other_is_refused(changes: dict[str, Any], word: str) -> None:
    source = _model(get_preset("456p").config)
    with pytest.raises(UsageError, match=word):
        check_encloses(dataclasses.replace(get_preset("456p").config, **changes), source)


def _settings(**changes: Any) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in (QUICK | changes).items()]


def test_train_from_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a rate of almost nothing every seed stays the proved model that it starts from, through a stop
    and a resume, and when the file it started from is gone."""
    source, folder = tmp_path / "source.pt", tmp_path / "run"
    source.write_bytes(proved_path("7p").read_bytes())
    settings = _settings(**{"recipe.lr": 1e-9})
    run = adderlab.train(
        "7p", seeds="0-1", set=settings, folder=folder, start=source, engine="torch", threads=1
    )
    source.unlink()
    assert run.best.val_exact == 1.0
    assert all(seed.best_exact == 1.0 for seed in run.seeds)
    config = json.loads((folder / "config.json").read_text())
    named = config["recipe"]["warm_start"]
    assert load_checkpoint(folder / "checkpoints/start.pt").weights_sha256 == named["sha256"]
    assert start_of(run.best) == ("generic" if named["start"] == "generic" else "informed (warm start)")
    assert config["recipe"]["restarts"] is None
    again = adderlab.resume(folder, steps=40, engine="torch", threads=1)
    assert again.best.val_exact == 1.0


def test_from_on_the_command_line(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    words = ["--seeds", "3", "--engine", "torch", "--threads", "1", "--evaluate", "none", "--no-prove"]
    command = ["train", "8p", "--run-name", "warm", *words, "--set", *_settings()]
    assert main([*command, "--from", str(proved_path("7p"))]) == 2
    assert "has model." in capsys.readouterr().err
    assert main([*command, "--from", str(proved_path("8p"))]) == 0
    out = capsys.readouterr().out
    assert "start: " in out and "left out" in out
    assert main(["train", "8p", "--until", "proved", "--from", "x.pt"]) == 2
    assert "--from" in capsys.readouterr().err


def test_a_finished_run_goes_on(tmp_path: Path) -> None:
    """The steps that were taken stay as they are; what is added begins from the best weights."""
    settings = _settings(**{"recipe.lr": 0.01})
    one = {"engine": "torch", "threads": 1}
    folder = tmp_path / "run"
    run = adderlab.train("67p", seeds="1-2", set=settings, folder=folder, recipe="microadder-60k", **one)  # type: ignore[arg-type]
    before = [row for seed in run.seeds for row in run.history(seed.seed)]
    with pytest.raises(UsageError, match="takes 20 steps"):
        adderlab.resume(folder, steps=20, **one)  # type: ignore[arg-type]
    longer = adderlab.resume(folder, steps=35, **one)  # type: ignore[arg-type]
    assert longer.status == "done" and read_summary(folder)["step"] == 34
    for seed in longer.seeds:
        rows = longer.history(seed.seed)
        assert rows[:3] == [row for row in before if row in rows]
        assert [row.step for row in rows] == [0, 10, 19, 20, 30, 34]
        assert {row.lr for row in rows[3:]} == {rows[2].lr}
    assert adderlab.resume(folder, steps=40, **one).status == "done"  # type: ignore[arg-type]


def test_extending_is_the_stage_that_it_says(tmp_path: Path) -> None:
    """Bit for bit the run whose recipe had that stage from the start."""
    one = {"engine": "torch", "threads": 1, "recipe": "microadder-60k", "seeds": "1-2"}
    settings = _settings(**{"recipe.lr": 0.01})
    adderlab.train("67p", set=settings, folder=tmp_path / "a", **one)  # type: ignore[arg-type]
    extended = adderlab.resume(tmp_path / "a", steps=30, engine="torch", threads=1)
    stages = json.loads((tmp_path / "a/config.json").read_text())["recipe"]["stages"]
    whole = adderlab.train(
        "67p",
        set=_settings(**{"recipe.lr": 0.01, "recipe.stages": stages}),
        folder=tmp_path / "b",
        **one,  # type: ignore[arg-type]
    )
    assert extended.best.weights_sha256 == whole.best.weights_sha256
    last = [load_checkpoint(tmp_path / run / "checkpoints/last.pt") for run in ("a", "b")]
    assert last[0].weights_sha256 == last[1].weights_sha256
