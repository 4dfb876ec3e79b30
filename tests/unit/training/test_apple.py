"""Training and evaluation ask nothing of Apple's GPU that it has not: no float64 above all."""

import functools

import pytest
import torch

import adderlab as al
from adderlab.cli.main import run_command
from adderlab.cli.r456 import R456Train
from helpers.apple import apple_gpu
from helpers.paths import ROOT


def test_the_stand_in_refuses_what_mps_refuses() -> None:
    with apple_gpu() as apple:
        x = torch.ones(3, device="mps")
        assert x.device.type == "mps" and (x[1:] * 2).sum().device.type == "mps"
        assert x.cpu().double().device.type == "cpu" and not apple.holds(x.cpu())
        for refused in (
            lambda: x.double(),
            lambda: x.to(torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
            lambda: x.mean(dtype=torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64).to("mps"),
            lambda: x.numpy(),
        ):
            with pytest.raises(TypeError):
                refused()
        with pytest.raises(RuntimeError, match="one device"):
            x + torch.ones(3)
        with pytest.raises(NotImplementedError, match="kthvalue"):
            x.kthvalue(1)
        w = torch.ones(3, device="mps", requires_grad=True)
        (w * x).sum().backward()
        assert w.grad is not None and apple.holds(w.grad)


SHORT = ("recipe.eval_interval=2", "recipe.val_size=64")
RESTARTS = (*SHORT, 'recipe.restarts={"halve_at": [2]}', "recipe.stages=[]")
"""Two draws a seed, of which validation chooses one."""


QUICK = "recipe.prefit.steps=2"


@pytest.mark.parametrize(
    ("model", "recipe", "settings"),
    [
        pytest.param("456p", "best", (*SHORT, QUICK), marks=pytest.mark.slow),
        pytest.param("57p", "best", (*RESTARTS, QUICK), marks=pytest.mark.slow),
        ("36p", "best", (*RESTARTS, QUICK)),
        (str(ROOT / "examples" / "my_adder.py"), "plain-228", RESTARTS),
    ],
    ids=["456p", "57p", "36p", "file"],
)
def test_training_and_evaluation_run_on_mps(model: str, recipe: str, settings, tmp_path) -> None:
    run_on_mps = functools.partial(al.train, seeds="0-1", steps=4, device="mps", recipe=recipe)
    with apple_gpu() as apple:
        run = run_on_mps(model, set=settings, folder=tmp_path / "run")
        pairs = [(9_999_999_999, 1), (0, 0), (1_234_567_890, 9_876_543_210)]
        report = al.evaluate(run.best, pairs, device="mps")
    assert report.total.n == 3
    assert len(apple.operations) > 20


def test_the_published_command_runs_on_mps(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--device",
        "mps",
        "--train-steps",
        "4",
        "--eval-interval",
        "2",
        "--seed",
        "43",
        "--run-name",
        "e1",
    ]
    with apple_gpu() as apple:
        assert run_command(R456Train, arguments, "python -m src.train") == 0
    assert len(apple.operations) > 20
    assert '"best_val_exact": 0.0' in capsys.readouterr().out
