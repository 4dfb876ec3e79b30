"""Assumptions about single operations are measured, and a machine that breaks one is not spoken of."""

import dataclasses
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from adderlab.checker import check_file, primitives
from adderlab.checker.fp32 import FloatCheck
from adderlab.checker.rounding import FP32, exact, root
from adderlab.checker.verify import fp32_module, read_model
from adderlab.runs.checkpoints import load_checkpoint
from helpers.models import config_of
from helpers.paths import ROOT

BEST = ROOT / "records" / "best"


@pytest.fixture
def fresh() -> Iterator[None]:
    """Measurements of a patched PyTorch are not kept."""
    primitives.measured.cache_clear()
    yield
    primitives.measured.cache_clear()


def test_this_machine_keeps_to_all_assumptions() -> None:
    assert primitives.reference_is_right()
    found = primitives.measured()
    assert [each.complaint() for each in found if not each.holds] == []
    assert len({each.name for each in found}) == len(found) == 12
    # Nothing is measured as exact: then it would not have been measured.
    assert all(each.worst > 0.0 for each in found)


def off_by(function: Callable[..., Tensor], ulps: float) -> Callable[..., Tensor]:
    """The function with some of its results off by this many units of the last place."""

    def wrong(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        out = function(x, *args, **kwargs)
        if type(out) is not Tensor:  # the checker's own numbers
            return out
        unit = torch.finfo(out.dtype).eps
        odd = (out.abs() * 1024).long() % 5 == 0
        return torch.where(odd, out * (1 + ulps * unit), out)

    return wrong


@pytest.mark.parametrize(
    ("owner", "name", "allowed", "refused"),
    [
        (torch, "sqrt", 0.5, 3.0),
        (torch.nn.functional, "silu", 8.0, 80.0),
        (torch, "softmax", 8.0, 80.0),
        (torch, "sin", 1.0, 8.0),
        (torch, "cos", 1.0, 8.0),
        (torch, "bmm", 0.0, 40.0),
    ],
)
@pytest.mark.usefixtures("fresh")
def test_what_is_outside_is_found(owner, name, allowed, refused, monkeypatch) -> None:
    real = getattr(owner, name)
    monkeypatch.setattr(primitives, "ARGUMENTS", 1 << 13)
    monkeypatch.setattr(owner, name, off_by(real, allowed))
    assert primitives.outside(lambda _: True) is None
    primitives.measured.cache_clear()
    monkeypatch.setattr(owner, name, off_by(real, refused))
    found = primitives.outside(lambda _: True)
    assert found is not None and found.worst > found.assumed
    assert f"{found.argument:.9g}" in found.complaint()


@pytest.mark.usefixtures("fresh")
def test_half_precision_inside_products_is_found(monkeypatch) -> None:
    real = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda a, b: real(a.bfloat16(), b.bfloat16()).float()
    )
    found = primitives.outside(lambda _: True)
    assert found is not None and found.name == "a product" and found.worst > 100


@pytest.mark.usefixtures("fresh")
def test_results_that_are_no_numbers_are_found(monkeypatch) -> None:
    monkeypatch.setattr(primitives, "ARGUMENTS", 1 << 10)
    real = torch.nn.functional.gelu
    monkeypatch.setattr(torch.nn.functional, "gelu", lambda x: real(x).masked_fill(x > 99.0, torch.nan))
    found = primitives.outside(lambda _: True)
    assert found is not None and found.name == "gelu" and np.isnan(found.computed)


@pytest.mark.usefixtures("fresh")
def test_a_machine_outside_is_not_spoken_of(monkeypatch) -> None:
    """The certificate is accepted as ever: real arithmetic does not ask PyTorch for roots."""
    monkeypatch.setattr(torch, "sqrt", off_by(torch.sqrt, 3.0))
    folder = BEST / "8p"
    report = check_file(folder / "model.cert.json.gz", load_checkpoint(folder / "model.pt"))
    assert report.accepted and report.fp32 is not None and not report.fp32.covered
    assert "on this machine sqrt of" in (report.fp32.reason or "")
    assert any("NOT COVERED: on this machine sqrt of" in line for line in report.describe())
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert value["fp32"]["primitives"][0]["worst"] > value["fp32"]["primitives"][0]["assumed"] == 2.0


@pytest.mark.usefixtures("fresh")
def test_only_activations_that_the_model_has_count(monkeypatch) -> None:
    checkpoint = load_checkpoint(BEST / "8p" / "model.pt")
    assert config_of(checkpoint).activation == "relu"
    monkeypatch.setattr(primitives, "ARGUMENTS", 1 << 10)
    monkeypatch.setattr(torch.nn.functional, "silu", off_by(torch.nn.functional.silu, 80.0))
    assert primitives.outside(lambda _: True) is not None
    model, _ = read_model(checkpoint)
    assert FloatCheck.of(fp32_module(checkpoint), model).reason is None


def test_square_roots_may_be_two_units_off() -> None:
    """The published case: torch gives 32.043499 where IEEE gives 32.0435028."""
    x = np.array([1026.7860107421875])
    bound = root(exact(x)).err[0]
    assert abs(np.float64(np.float32(32.043499)) - np.sqrt(x[0])) < bound
    assert 2.0 * np.spacing(np.float32(32.04)) <= bound < 4.01 * 2 * FP32.unit * 32.05
    assert dataclasses.asdict(primitives.measured()[0])["name"] == "sqrt"
