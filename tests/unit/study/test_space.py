"""Sweeps as declared: the same cells every time, and what is refused."""

import tomllib

import pytest

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.study.cells import Axis, SweepPlan, read_sweep

SPACE = """
preset = "456p"
recipe = "published"
steps = 100
[set]
recipe.data.curriculum.lengths = "full"
recipe.grokfast = {alpha = 0.9, strength = 3.0}
"model.d_ff" = 7
[grid]
recipe.lr = [0.01, 0.02]
[random]
samples = 4
seed = 9
[random.space]
recipe.weight_decay = {low = 0.001, high = 0.1, log = true}
recipe.warmup_steps = {low = 3, high = 5, integer = true}
recipe.beta2 = {values = [0.99, 0.999]}
"""


def sweep(text: str, seeds: tuple[int, ...] = (0, 1)) -> SweepPlan:
    return read_sweep(tomllib.loads(text), seeds)


def test_every_sample_is_tried_with_every_point_of_the_grid() -> None:
    declared = sweep(SPACE)
    cells = declared.cells()
    assert [cell.index for cell in cells] == list(range(8))
    assert [cell.settings["recipe.lr"] for cell in cells] == [0.01, 0.02] * 4
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        assert first.settings | {"recipe.lr": 0.02} == second.settings
    assert len({cell.settings["recipe.weight_decay"] for cell in cells}) == 4
    for cell in cells:
        assert 0.001 <= cell.recipe.weight_decay <= 0.1 and cell.recipe.warmup_steps in (3, 4, 5)
        assert cell.recipe.lr == cell.settings["recipe.lr"] and cell.recipe.steps == 100
        assert isinstance(cell.config, ModelConfig) and cell.config.d_ff == 7
        assert cell.recipe.data.curriculum.lengths == "full"
        assert cell.recipe.grokfast and cell.recipe.grokfast.strength == 3.0


def test_cells_are_the_same_when_read_again_and_more_samples_come_after_them() -> None:
    cells = sweep(SPACE).cells()
    assert [cell.settings for cell in sweep(SPACE).cells()] == [cell.settings for cell in cells]
    more = sweep(SPACE.replace("samples = 4", "samples = 6")).cells()
    assert [cell.settings for cell in more[:8]] == [cell.settings for cell in cells]
    other = sweep(SPACE.replace("seed = 9", "seed = 10")).cells()
    assert other[0].settings != cells[0].settings


def test_draws_are_fixed_for_good() -> None:
    """A declaration that is read years from now gives the same cells."""
    assert sweep(SPACE).cells()[0].settings == {
        "recipe.lr": 0.01,
        "recipe.weight_decay": 0.00267174,
        "recipe.warmup_steps": 5,
        "recipe.beta2": 0.99,
    }


def test_presets_and_recipes_can_be_varied_by_name() -> None:
    declared = sweep('preset = ["456p", "491p"]\nrecipe = ["published", "circle"]\nsteps = 50')
    cells = declared.cells()
    assert [tuple(cell.settings.values()) for cell in cells] == [
        ("456p", "published"),
        ("456p", "circle"),
        ("491p", "published"),
        ("491p", "circle"),
    ]
    assert [cell.recipe.circle is not None for cell in cells] == [False, True, False, True]
    assert cells[0].config != cells[2].config


def test_axes_reach_both_ends() -> None:
    whole = Axis(path="recipe.steps", low=3, high=5, integer=True)
    assert {whole.at(u / 100) for u in range(100)} == {3, 4, 5}
    assert whole.at(1 - 2**-53) == 5
    logarithmic = Axis(path="recipe.lr", low=1e-4, high=1e-1, log=True)
    assert logarithmic.at(0.0) == 1e-4 and logarithmic.at(1 / 3) == 0.001
    listed = Axis(path="recipe.lr", values=(1, 2, 3))
    assert [listed.at(u) for u in (0.0, 0.34, 0.99)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = 5", "preset"),
        ('preset = "456p"\nsede = 1', "'sede'"),
        ('preset = "4567p"', "4567p"),
        ('preset = "456p"\nrecipe = "fast"', "'fast'"),
        ('preset = "456p"\nsteps = "many"', "steps"),
        ('preset = "456p"\n[grid]\nrecipe.lrr = [1]', "lrr"),
        ('preset = "456p"\n[grid]\nlr = [1]', "recipe.NAME"),
        ('preset = "456p"\n[grid]\nrecipe.lr = 0.1', "list of values"),
        ('preset = "456p"\n[grid]\nrecipe.lr = []', "list of values"),
        ('preset = "456p"\n[grid]\nrecipe.lr = ["fast"]', "fast"),
        ('preset = "456p"\n[grid]\nrecipe.lr = [0.01, -1]', "recipe.lr"),
        ('preset = "456p"\n[random]\nsamples = 3', "space"),
        ('preset = "456p"\n[random.space]\nrecipe.lr = {low = 1, high = 2}', "samples"),
        ('preset = "456p"\n[random]\nsamples = 0\n[random.space]\nrecipe.lr = {low = 1, high = 2}', "0"),
        (
            'preset = "456p"\n[random]\nsamples = 1\n[random.space]\nrecipe.lr = {low = 2, high = 1}',
            "low",
        ),
        ('preset = "456p"\n[random]\nsamples = 1\n[random.space]\nrecipe.lr = {lo = 2}', "'lo'"),
        (
            'preset = "456p"\n[random]\nsamples = 1\n[random.space]\n'
            "recipe.lr = {low = 0, high = 1, log = true}",
            "above 0",
        ),
        (
            'preset = "456p"\n[grid]\nrecipe.lr = [0.1]\n[random]\nsamples = 1\n[random.space]\n'
            "recipe.lr = {low = 0, high = 1}",
            "twice",
        ),
        ('preset = "456p"\n[halving]\nrungs = [2000, 1000]', "ascending"),
        ('preset = "456p"\n[halving]\nrungs = [1250]', "eval_interval"),
        ('preset = "456p"\n[halving]\nrungs = [1000]\nkeep = 1.0', "keep"),
        ('preset = "456p"\n[halving]\nrung = [1000]', "rung"),
        ('preset = "456p"\nsteps = 2026-01-01', "steps"),
        ('preset = "456p"\n[set]\nrecipe.circle.strength = 1', "circle"),
    ],
)
def test_wrong_declarations_are_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(UsageError) as trouble:
        sweep(text)
    assert words in str(trouble.value) and "\n" not in str(trouble.value)
