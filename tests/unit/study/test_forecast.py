"""Forecasts: the arithmetic exactly, the measurement by a clock of its own, the text as promised."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from adderlab.api import studies
from adderlab.api.experiments import define
from adderlab.cli.main import main
from adderlab.errors import UsageError
from adderlab.evaluation.suites import Rate, wilson
from adderlab.models.zoo import get_preset
from adderlab.recipes import best_name
from adderlab.study import rate as rates
from adderlab.study.forecast import (
    KnownRate,
    Plan,
    Speed,
    chance,
    forecast,
    given_rate,
    num_evaluations,
    recorded_rate,
    seeds_needed,
)
from adderlab.training.finetune import LBFGS
from adderlab.training.ingredients import Average, Restarts
from adderlab.training.measure import Evaluation
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe, Stage
from adderlab.training.run import Writer

SPEED = Speed(
    seeds=8, width=2, seed_steps_per_second=400.0, evaluation_seconds=0.25, writing_seconds=0.5
)
RECIPE = Recipe(steps=1000, eval_interval=100, batch_size=64)


def test_the_wall_time_of_the_fullest_node() -> None:
    """10 seeds on 3 machines are 4 on the fullest: two rounds of 2, each 1/200 s a step."""
    found = forecast(SPEED, RECIPE, seeds=10, nodes=3)
    assert (found.nodes, found.seeds_per_node, found.steps) == (3, 4, 1000)
    assert found.training_seconds == pytest.approx(1000 * 2 / 200)
    assert found.evaluations == 11  # steps 0, 100, ..., 900 and the last, 999
    assert found.evaluating_seconds == pytest.approx(11 * (4 * 0.25 + 0.5))
    assert found.seconds == pytest.approx(10 + 16.5)
    assert found.node_hours == pytest.approx(3 * 26.5 / 3600)
    assert found.seed_steps_per_second == pytest.approx(10 * 1000 / 26.5)
    assert not found.not_counted


def test_one_seed_takes_as_long_as_fit_side_by_side() -> None:
    one, two, three = (forecast(SPEED, RECIPE, n, 1).training_seconds for n in (1, 2, 3))
    assert one == two == pytest.approx(5.0) and three == pytest.approx(10.0)


def test_more_machines_than_seeds_do_not_help() -> None:
    assert forecast(SPEED, RECIPE, 2, 5) == forecast(SPEED, RECIPE, 2, 2)


def test_restarts_cost_by_their_batch_and_a_polish_is_not_counted() -> None:
    stages = (Stage(steps=500, batch_size=128, average=Average()), Stage(lbfgs=LBFGS()))
    recipe = dataclasses.replace(RECIPE, stages=stages, stop_perfect_steps=200)
    found = forecast(SPEED, recipe, 2, 1)
    assert found.steps == 1501
    assert found.training_seconds == pytest.approx((1000 + 2 * 500) / 200)
    assert len(found.not_counted) == 2


def test_draws_cost_what_seeds_cost_until_they_are_dropped() -> None:
    """4 draws to step 200, 2 to step 600, then 1: of 3 seeds 12, 6 and 3 models, two at a time."""
    recipe = dataclasses.replace(RECIPE, restarts=Restarts(halve_at=(200, 600)))
    found = forecast(SPEED, recipe, 3, 1)
    assert found.training_seconds == pytest.approx((200 * 6 + 400 * 3 + 400 * 2) / 200)
    # Evaluated at 0, 100 and 200; 300 to 600; 700, 800, 900 and 999.
    models = 3 * (3 * 4 + 4 * 2 + 4 * 1)
    assert found.evaluating_seconds == pytest.approx(models * 0.25 + 11 * 0.5)


@pytest.mark.parametrize("interval", [1, 3, 7, 1000])
def test_evaluations_are_those_of_the_recipe(interval: int) -> None:
    stages = (Stage(steps=5), Stage(steps=4))
    recipe = Recipe(steps=21, eval_interval=interval, stages=stages)
    assert num_evaluations(recipe) == sum(map(recipe.looks_at, range(recipe.total_steps)))


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.25, 0.5, 0.95, 0.9999])
def test_the_seeds_needed_are_the_fewest(rate: float) -> None:
    needed = seeds_needed(rate)
    assert needed is not None
    assert chance(rate, needed) >= 0.95 - 1e-12
    assert needed == 1 or chance(rate, needed - 1) < 0.95
    assert chance(rate, 3) == pytest.approx(1 - (1 - rate) ** 3)


def test_the_seeds_needed_at_the_ends() -> None:
    assert seeds_needed(0.0) is None and seeds_needed(1.0) == 1
    assert chance(0.0, 99) == 0.0 and chance(1.0, 1) == 1.0


@pytest.mark.parametrize("text", ["12", "a/b", "3/2", "0/0", "-1/4", "1/4/9", "/4"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="rate="):
        given_rate(text)


def share(count: int, n: int) -> Rate:
    return wilson(count, n)


def record(preset: str, recipe: str, pure: Rate | None) -> rates.RateRecord:
    """A row with nothing but what a plan looks at."""
    fields = {field.name: None for field in dataclasses.fields(rates.RateRecord)}
    known = {"preset": preset, "recipe": recipe, "pure": pure, "exact_at_end": share(9, 10)}
    return rates.RateRecord(**{**fields, **known, "seeds": "1000-1009", "steps": 27_000})  # type: ignore[arg-type]


def test_the_recorded_rate_is_that_of_preset_and_recipe() -> None:
    records = [
        record("456p", "r456-54k", share(1, 10)),
        record("456p", "circle", share(4, 10)),
        record("6080p", "circle", None),
    ]
    found = recorded_rate(records, "456p", "circle")
    assert found is not None and (found.rate.count, found.rate.n) == (4, 10)
    assert found.rate.low == pytest.approx(0.1682, abs=1e-4)
    assert "proved" in found.criterion and "456p_circle.json" in found.source
    unprovable = recorded_rate(records, "6080p", "circle")
    assert unprovable is not None and unprovable.rate.count == 9 and "99%" in unprovable.criterion
    assert recorded_rate(records, "456p", "circle-27k") is None


SMALL = ["--set", "recipe.batch_size=16", "recipe.val_size=20", "recipe.test_size=20"]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tenth of a second of measuring, in a folder without records of rates."""
    from adderlab.study import forecast as module

    measure = module.measure_speed
    monkeypatch.setattr(module, "measure_speed", lambda *a, **k: measure(*a, **k, seconds=0.1))
    monkeypatch.setattr(rates, "default_folder", lambda: None)
    monkeypatch.chdir(tmp_path)


def test_the_command_as_text(brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "plan",
        "456p",
        "--recipe",
        "prefit",
        "--seeds",
        "12",
        "--steps",
        "2000",
        "--nodes",
        "4",
        "--price-per-hour",
        "0.5",
    ]
    assert main([*argv, *SMALL, "--device", "cpu", "--threads", "1", "--rate", "12/48"]) == 0
    out = capsys.readouterr().out
    for words in (
        "measured with 3 seeds",
        "12 seeds x 2,000 steps on 4 machines",
        "cost: ",
        "12/48 = 25.0% [14.9%, 38.8%]",
        "in 12 seeds: 96.8% [85.6%, 99.7%]",
        "seeds for a 95% chance of one: 11 [7 to 19]",
    ):
        assert words in out, words
    assert list(tmp_path.iterdir()) == []


def test_the_command_as_json(brief: None, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "plan",
        "456p",
        "--recipe",
        "prefit",
        "--seeds",
        "2",
        "--steps",
        "300",
        *SMALL,
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["success"] is None and found["forecast"]["cost"] is None
    measured, expected = found["measured"], found["forecast"]
    per_step = 2 / measured["seed_steps_per_second"]
    computing = 300 * per_step + 2 * 2 * measured["evaluation_seconds"]
    assert expected["evaluations"] == 2
    # Files are written at most once a second, and once at the end.
    writings = min(2, 1 + computing / Writer.PAUSE)
    assert math.isclose(expected["seconds"], computing + writings * measured["writing_seconds"])


class Clock:
    """Stands still but for what training, evaluating and writing add to it, in seconds."""

    STEP_OF_A_SEED, EVALUATION_OF_A_SEED, WRITING = 0.01, 0.5, 0.25

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        took, evaluate, write = Population.took, Population.evaluate, Writer.write

        def taking(each: Population, steps: int, seconds: float) -> None:
            self.seconds += self.STEP_OF_A_SEED * steps * each.num_rows
            took(each, steps, seconds)

        def evaluating(each: Population, loss_S: Tensor) -> Evaluation:
            self.seconds += self.EVALUATION_OF_A_SEED * each.num_rows
            return evaluate(each, loss_S)

        def writing(writer: Writer, *status: Any) -> None:
            self.seconds += self.WRITING
            write(writer, *status)

        monkeypatch.setattr(Population, "took", taking)
        monkeypatch.setattr(Population, "evaluate", evaluating)
        monkeypatch.setattr(Writer, "write", writing)
        clock = SimpleNamespace(perf_counter=lambda: self.seconds, monotonic=lambda: self.seconds)
        for name in ("study.forecast", "training.run"):
            monkeypatch.setattr(f"adderlab.{name}.time", clock)


def test_a_forecast_is_what_the_run_takes(
    brief: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a clock that knows only the parts that are measured."""
    clock = Clock(monkeypatch)
    settings = [*SMALL, "recipe.eval_interval=50"]
    common = ["--recipe", "prefit", "--steps", "200", "--device", "cpu", "--threads", "1"]
    assert main(["plan", "456p", "--seeds", "2", *common, *settings, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["seed_steps_per_second"] == pytest.approx(1 / clock.STEP_OF_A_SEED)
    assert found["measured"]["evaluation_seconds"] == pytest.approx(clock.EVALUATION_OF_A_SEED)
    assert found["measured"]["writing_seconds"] == pytest.approx(clock.WRITING)
    run = ["--seeds", "0-1", "--run-name", "it", "--evaluate", "none", "--no-prove", "--quiet"]
    clock.seconds = 0.0
    assert main(["train", "456p", *run, *common, *settings]) == 0
    assert clock.seconds == pytest.approx(found["forecast"]["seconds"])


def made(known: KnownRate | None, steps: int) -> Plan:
    """Of three seeds, on a machine that was measured."""
    return Plan(
        preset="456p",
        recipe="best",
        machine="cpu",
        busy="",
        speed=SPEED,
        forecast=forecast(SPEED, RECIPE, 3, 1),
        nodes=1,
        price_per_hour=None,
        known=known,
        steps_per_seed=steps,
        enough=None,
    )


def test_an_unknown_rate_names_the_remedy() -> None:
    line = made(None, 9000).describe()[-1]
    assert "No success rate is known" in line and "adderlab rate" in line


def test_a_rate_of_other_steps_is_shown_as_such() -> None:
    found = recorded_rate([record("456p", "circle", share(0, 10))], "456p", "circle")
    text = "\n".join(made(found, 9000).describe())
    assert "measured at 27,000 steps, not 9,000" in text
    assert "one: no number [10 to no number]" in text


def test_the_rate_looked_up_is_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    own = best_name(get_preset("456p"))
    rows = [record("456p", own, share(4, 10)), record("456p", "r456-54k", share(1, 10))]
    monkeypatch.setattr(studies, "default_folder", lambda: Path("somewhere"))
    monkeypatch.setattr(studies, "read_rates", lambda folder: rows)
    for name, count in (("best", 4), (own, 4), ("published", 1)):
        for steps in (None, 20_000):
            found = studies.known_rate(define("456p", name, steps=steps))
            assert found is not None and found.rate.count == count, name
    assert studies.known_rate(define("456p", "best", settings=["recipe.lr=0.01"])) is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--seeds", "0"], "--seeds 0"),
        (["--nodes", "0"], "--nodes 0"),
        (["--rate", "5"], "--rate '5'"),
        (["--price-per-hour", "-1"], "--price-per-hour"),
        (["--threads", "0"], "--threads"),
        (["--steps", "0"], "steps"),
    ],
)
def test_wrong_plans_are_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "456p", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
