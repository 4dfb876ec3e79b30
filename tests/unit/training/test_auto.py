"""The recipe auto, and what it is made of: starts of several rates and widths, stages for the worthy."""

import dataclasses
from pathlib import Path

import pytest
import torch

import adderlab as al
from adderlab.api.experiments import define, explain
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.files.schema import to_dict
from adderlab.models.zoo import PRESETS, get_preset
from adderlab.recipes import best_name, get_recipe, named_for, quick_name
from adderlab.recipes.auto import auto, explained
from adderlab.report.describe import describe_recipe
from adderlab.study.cells import read_sweep
from adderlab.study.forecast import Speed, forecast, steps_within
from adderlab.training.ingredients import Restarts, WideInit
from adderlab.training.measure import Listener
from adderlab.training.objective import Backend, objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe, Stage
from adderlab.training.run import Job, run
from adderlab.training.start import check_fits, start

CPU = torch.device("cpu")
CONFIG = get_preset("67p").config
OBJECTIVE = objective_for(CONFIG, TorchEngine(1), CPU)
FOUR = Restarts(halve_at=(3, 8), lr_factors=(1.0, 2.0), widths=(0.0, 1.0))
TINY = Recipe(
    steps=12, batch_size=8, warmup_steps=2, val_size=40, test_size=10, eval_interval=4, restarts=FOUR
)


def population(recipe: Recipe, seeds: tuple[int, ...] = (5,)) -> Population:
    return Population(CONFIG, recipe, seeds, OBJECTIVE, CPU)


def with_restarts(**changes: object) -> Recipe:
    return dataclasses.replace(TINY, restarts=dataclasses.replace(FOUR, **changes))  # type: ignore[arg-type]


def test_every_start_learns_at_its_own_rate_to_the_bit() -> None:
    same = with_restarts(lr_factors=(1.0, 1.0))
    both, plain = population(TINY), population(same)
    faster = population(dataclasses.replace(same, lr=2 * TINY.lr))
    for each in (both, plain, faster):
        for _ in range(3):
            each.advance()
    assert torch.equal(both.flat_SN[0], plain.flat_SN[0]) and torch.equal(
        both.flat_SN[1], faster.flat_SN[1]
    )
    assert not torch.equal(both.flat_SN[1], plain.flat_SN[1])


def test_rates_and_widths_meet() -> None:
    assert [(FOUR.lr_factor(i), FOUR.width(i)) for i in range(4)] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    drawn = start(CONFIG, with_restarts(widths=()), (5, 9))
    wide = start(CONFIG, TINY, (5, 9))
    for name, tensor in wide.items():
        assert torch.equal(tensor[[0, 1, 4, 5]], drawn[name][[0, 1, 4, 5]]), name
    matrix = "blocks.0.mlp.fc1.weight"
    bound = (6 / sum(wide[matrix].shape[1:])) ** 0.5
    assert not torch.equal(wide[matrix][2], drawn[matrix][2])
    assert 0.5 * bound < float(wide[matrix][[2, 3, 6, 7]].abs().max()) <= bound
    doubled = start(CONFIG, with_restarts(widths=(0.0, 2.0)), (5, 9))
    assert torch.allclose(doubled[matrix][2], 2 * wide[matrix][2])


def test_a_seed_keeps_the_rate_of_its_best_start_alone_in_company_and_after_a_resume() -> None:
    alone, together = population(TINY), population(TINY, (5, 2))
    evaluations = []
    for step in range(TINY.steps):
        for each in (alone, together):
            loss_S = each.advance()
            if TINY.looks_at(step):
                evaluations.append(each.evaluate(loss_S))
        if step in (1, 5, 9):
            state, alone = alone.state(), population(TINY)
            alone.load_state(state)
    assert alone.num_rows == 1 and torch.equal(alone.flat_SN[0], together.flat_SN[0])
    factor = FOUR.lr_factor(together.state()["starts"][0])
    assert evaluations[-1].metrics(0, 0.0).lr == pytest.approx(factor * evaluations[-1].lr)


def test_only_seeds_that_came_far_enough_go_on_to_a_stage(tmp_path: Path) -> None:
    def steps(needed: float) -> int:
        recipe = dataclasses.replace(TINY, stages=(Stage(steps=4, from_exact=needed),))
        job = Job(config=CONFIG, recipe=recipe, seeds=(1, 2), folder=tmp_path / str(needed))
        result = run(job, OBJECTIVE, CPU)
        assert result.status == "done" and {each.status for each in result.records} == {"done"}
        return result.records[0].steps

    assert steps(0.0) == 16 and steps(0.5) == 12


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        with_restarts(lr_factors=(0.0,))
    with pytest.raises(UsageError, match="at least 0"):
        with_restarts(widths=(-1.0,))
    with pytest.raises(UsageError, match="wide_init"):
        dataclasses.replace(TINY, wide_init=WideInit(signs=False))
    with pytest.raises(UsageError, match="from_exact"):
        Stage(from_exact=2.0)
    with pytest.raises(UsageError, match="chosen for a model"):
        get_recipe("auto")
    with pytest.raises(UsageError, match="400 steps"):
        auto(CONFIG, 100)


def test_what_recipes_had_before_there_were_rates_and_widths_is_written_as_before() -> None:
    plain = to_dict(get_recipe("restarts-67-anneal"))
    assert set(plain["restarts"]) == {"halve_at"} and "from_exact" not in plain["stages"][0]


@pytest.mark.parametrize("name", ["67p", "140p", "311p", "36p", "7p"])
def test_it_is_generic_and_fits_every_kind_of_model(name: str) -> None:
    config = get_preset(name).config
    recipe = auto(config)
    assert recipe.informed_by == () and len(explained(config, recipe)) == 4
    check_fits(config, recipe, (0, 41))
    assert recipe.restarts is not None and recipe.restarts.halve_at[-1] < recipe.steps
    assert describe_recipe(to_dict(recipe), config) == "auto"


def test_it_is_the_default_where_nothing_was_measured() -> None:
    assert best_name(PRESETS["140p"]) == quick_name(PRESETS["140p"]) == "auto"
    wanted = define("140p", "best", steps=4000)
    assert wanted.recipe_name == "auto" and wanted.recipe.steps == 4000
    assert wanted.recipe.restarts is not None
    assert wanted.recipe.restarts.halve_at == tuple(50 << i for i in range(6))
    wider = define("140p", "auto", settings=("model.d_ff=9",))
    assert wider.recipe == auto(wider.config)
    assert named_for(PRESETS["140p"], "best").name == "auto"


@pytest.mark.parametrize("name, lines", [("auto", 4), ("auto+lr=0.01", 4), ("automatic", 0), ("", 0)])
def test_what_it_chose_is_told_and_of_other_recipes_nothing(name: str, lines: int) -> None:
    said: list[str] = []
    listener = Listener()
    listener.on_message = said.append  # type: ignore[method-assign]
    explain(dataclasses.replace(define("140p", "auto"), recipe_name=name), listener)
    assert len(said) == lines and all(line.startswith("auto: ") for line in said)


def test_a_sweep_takes_it_for_each_of_its_models() -> None:
    plan = read_sweep({"preset": ["140p", "311p"], "recipe": "auto", "steps": 4000}, (0, 1))
    for cell in plan.cells():
        assert cell.recipe == auto(cell.config, 4000)


def test_a_budget_of_time_chooses_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = auto(CONFIG)
    speed = Speed(
        seeds=2, width=1, seed_steps_per_second=1e4, evaluation_seconds=0.01, writing_seconds=0.0
    )
    monkeypatch.setattr("adderlab.study.forecast.measure_speed", lambda *args, **more: speed)
    backend = Backend(objective=OBJECTIVE, device=CPU, device_reason="", threads=1)

    def within(seconds: float) -> int:
        return steps_within(seconds, CONFIG, recipe, 2, backend, least=400, most=10 * recipe.steps)

    assert within(0.1) == 400 and within(1e9) == 10 * recipe.steps
    chosen = auto(CONFIG, within(20.0))
    assert forecast(speed, chosen, 2, 1).seconds == pytest.approx(20.0, rel=0.05)
    with pytest.raises(UsageError, match="recipe auto on this machine"):
        al.train("67p", recipe="auto", steps=500, minutes=1.0, folder=tmp_path / "run")
    with pytest.raises(UsageError, match="above 0"):
        al.train("67p", recipe="auto", minutes=0.0, folder=tmp_path / "run")
