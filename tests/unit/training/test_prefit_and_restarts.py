"""Where seeds start: attention fitted to a pattern, and several restarts of which one stays."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.recipes import get_recipe
from adderlab.task.sampling import sample_pairs
from adderlab.training import start as training_start
from adderlab.training.ingredients import (
    AttentionPrefit,
    Restarts,
    leaders,
    log_attention,
    prefit_attention,
    wanted_attention,
)
from adderlab.training.measure import Listener
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe
from adderlab.training.run import Job, run
from adderlab.training.start import check_fits, start

CPU = torch.device("cpu")
CONFIG = get_preset("456p").config
QUERY = "blocks.0.attn.qkv_Bq"
PREFIT = dataclasses.replace(get_recipe("prefit"), steps=40, batch_size=32, val_size=40, eval_interval=5)
RESTARTED = Recipe(
    steps=20,
    batch_size=16,
    warmup_steps=2,
    val_size=60,
    test_size=20,
    eval_interval=4,
    restarts=Restarts(halve_at=(3, 8)),
)


def own_column(params: dict[str, Tensor], seed: int) -> float:
    """Mean attention of answer steps 0 to 9 to both digits of their own column, on unseen pairs."""
    layout = CONFIG.token_layout
    tokens_SBP, _ = layout.encode(*sample_pairs(UNIFORM_PAIRS, torch.tensor([seed]), 99_999, 200))
    with torch.no_grad():
        weight_BAP = log_attention(CONFIG, params, tokens_SBP.long()).exp()[0, :, :, 0]
    own = [weight_BAP[:, i, [layout.a_positions[i], layout.b_positions[i]]].sum(-1) for i in range(10)]
    return float(torch.stack(own).mean())


@pytest.mark.parametrize("preset", ["456p", "67p", "62p", "1644p"])
def test_the_picture_names_the_columns_of_every_layout(preset: str) -> None:
    config = get_preset(preset).config
    if config.token_layout.pairs:
        with pytest.raises(UsageError, match="tables"):
            check_fits(config, dataclasses.replace(PREFIT, circle=None, freeze=()), (0,))
        return
    layout, wanted_AP = config.token_layout, wanted_attention(config, 0.2)
    torch.testing.assert_close(wanted_AP.sum(1), torch.ones(11))
    for i in range(1, 10):
        expected_P = torch.zeros(layout.num_positions)
        for positions in (layout.a_positions, layout.b_positions):
            expected_P[positions[i]], expected_P[positions[i - 1]] = 0.4, 0.1
        torch.testing.assert_close(wanted_AP[i], expected_P)
    # Nothing lies below the units, or above the tens of billions: unless distances are all there is.
    rotary = config.rope_theta is not None
    assert (wanted_AP[0, layout.a_positions[0]] < 0.5) == rotary
    assert (wanted_AP[10, layout.a_positions[9]] < 0.5) == rotary


def test_a_prefit_query_looks_at_its_column_and_nothing_else_has_moved() -> None:
    drawn = start(CONFIG, dataclasses.replace(PREFIT, prefit=None), (3,))
    fitted = start(CONFIG, PREFIT, (3,))
    changed = {name for name in drawn if not torch.equal(drawn[name], fitted[name])}
    assert changed == {QUERY}
    # 0.06 where all 33 positions are alike; turning the query alone does not come near 0.9.
    before, after = own_column(drawn, 3), own_column(fitted, 3)
    assert after > 2 * before, (before, after)


@pytest.mark.parametrize(("rows", "seeds"), [(1, 5), (4, 5), (1000, 40)])
def test_where_a_seed_starts_does_not_depend_on_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, rows: int, seeds: int
) -> None:
    """However many are fitted together: two starts of each of several seeds, and both of one alone."""
    monkeypatch.setattr(training_start, "PREFIT_ROWS", rows)
    recipe = dataclasses.replace(PREFIT, steps=10, restarts=Restarts(halve_at=(3,)))
    together, alone = start(CONFIG, recipe, tuple(range(seeds))), start(CONFIG, recipe, (3,))
    for name, tensor in alone.items():
        assert torch.equal(together[name][6:8], tensor), name


def test_what_attention_does_not_depend_on_stays_as_drawn() -> None:
    """A beginning of names that takes in the whole block: the fit has no gradient for the rest."""
    drawn = stack_parameters([build_model(CONFIG, 0)])
    fitted = prefit_attention(
        AttentionPrefit(parameters=("blocks.0",), steps=2), CONFIG, UNIFORM_PAIRS, [0], drawn
    )
    moved = {name for name, tensor in drawn.items() if not torch.equal(fitted[name], tensor)}
    assert QUERY in moved
    assert all(name.startswith(("blocks.0.attn", "blocks.0.ln1")) for name in moved), moved


def test_what_cannot_be_prefit_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter's name begins with 'query'"):
        check_fits(
            CONFIG, dataclasses.replace(PREFIT, prefit=AttentionPrefit(parameters=("query",))), (0,)
        )
    for wrong in ({"parameters": ()}, {"below": 1.0}, {"steps": 0}, {"lr": 0.0}, {"pairs": 0}):
        with pytest.raises(UsageError, match="prefit"):
            AttentionPrefit(**{"parameters": (QUERY,), **wrong})  # type: ignore[arg-type]
    params = stack_parameters([build_model(CONFIG, 0)])
    with pytest.raises(UsageError, match="prefit"):
        prefit_attention(AttentionPrefit(parameters=("none",)), CONFIG, UNIFORM_PAIRS, [0], params)


def test_restarts_are_halved_at_their_steps() -> None:
    restarts = Restarts(halve_at=(3, 8))
    assert restarts.count == 4
    assert [restarts.left_after(step) for step in (0, 2, 3, 7, 8, 100)] == [4, 4, 2, 2, 1, 1]
    # 4 restarts for 3 steps, 2 for 5 more, 1 for the other 12.
    assert restarts.seed_steps(20) == 4 * 3 + 2 * 5 + 12
    for wrong in ((), (5, 5), (8, 3), (-1, 4), tuple(range(9))):
        with pytest.raises(UsageError, match="halve_at"):
            Restarts(halve_at=wrong)
    with pytest.raises(UsageError, match=r"last halving.*recipe\.restarts=null"):
        dataclasses.replace(RESTARTED, steps=8)
    with pytest.raises(UsageError, match="counter"):
        dataclasses.replace(RESTARTED, sampler="r456")


def test_leaders_are_the_best_of_every_seed_in_their_order() -> None:
    scores = [(0.1,), (0.5,), (0.3,), (0.9,), (0.2,), (0.9,)]
    assert leaders([7, 7, 7, 4, 4, 4], scores, 2) == [1, 2, 3, 5]
    assert leaders([7, 7, 7, 4, 4, 4], scores, 1) == [1, 3]


def population(seeds: tuple[int, ...], recipe: Recipe = RESTARTED) -> Population:
    return Population(CONFIG, recipe, seeds, objective_for(CONFIG, TorchEngine(), CPU), CPU)


def advance(each: Population, steps: int) -> None:
    for _ in range(steps):
        loss = each.advance()
        if each.recipe.looks_at(each.next_step - 1):
            each.evaluate(loss)


def test_the_restart_that_is_best_at_the_halving_goes_on_as_if_it_were_alone() -> None:
    once = dataclasses.replace(RESTARTED, restarts=Restarts(halve_at=(3,)))
    each = population((5,), once)
    starts = [row.clone() for row in each.flat_SN]
    singles = []
    for flat_N in starts:
        single = population((5,), dataclasses.replace(once, restarts=None))
        single.flat_SN.copy_(flat_N[None])
        singles.append(single)
    for one in (each, *singles):
        advance(one, 4)
        loss = one.advance()
        last = one.evaluate(loss)
        assert last.seeds == (5,) and len(last.weights_SN) == 1
    measured = [single.evaluate(torch.zeros(1)).score(0) for single in singles]
    assert len(set(measured)) == 2, "the two restarts must differ for this test to tell them apart"
    assert each.num_rows == 1
    assert torch.equal(each.flat_SN, singles[measured.index(max(measured))].flat_SN)
    advance(each, 15)
    advance(singles[measured.index(max(measured))], 15)
    assert torch.equal(each.flat_SN, singles[measured.index(max(measured))].flat_SN)


def test_a_seed_with_restarts_is_the_same_alone_in_company_and_after_a_resume() -> None:
    together, alone = population((5, 2, 9)), population((2,))
    rows = []
    for _ in range(RESTARTED.steps):
        for each in (together, alone):
            advance(each, 1)
        rows.append(together.num_rows)
        if together.next_step in (2, 6, 11):
            state = together.state()
            together = population((5, 2, 9))
            together.load_state(state)
    assert rows[0] == 12 and rows[4] == 6 and rows[8] == 3 and rows[-1] == 3
    assert torch.equal(together.flat_SN[1:2], alone.flat_SN)


def test_seeds_can_be_given_up_while_they_still_have_restarts() -> None:
    together, alone = population((5, 2, 9)), population((9,))
    for each in (together, alone):
        advance(each, 3)
    together.keep([0, 2])
    assert together.seeds == (5, 9) and together.num_rows == 8
    for each in (together, alone):
        advance(each, 17)
    assert torch.equal(together.flat_SN[1:2], alone.flat_SN)


class ModelCounts(Listener):
    """Notes how many models train at each step."""

    models: list[int]

    def __init__(self) -> None:
        self.models = []

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        self.models.append(models)


def test_a_run_with_restarts_stopped_among_them_ends_in_the_same_bits(tmp_path: Path) -> None:
    objective, watched = objective_for(CONFIG, TorchEngine(), CPU), ModelCounts()
    whole = Job(config=CONFIG, recipe=RESTARTED, seeds=(1, 2), folder=tmp_path / "whole", keep="all")
    stopped = dataclasses.replace(whole, folder=tmp_path / "stopped")
    run(whole, objective, CPU, watched)
    assert watched.models[0] == 8 and watched.models[-1] == 2
    run(stopped, objective, CPU, ModelCounts(), until=6)
    run(stopped, objective, CPU, ModelCounts(), resume=True)
    for name in ("seeds.csv", "seed_0001/checkpoints/last.pt", "seed_0002/checkpoints/best.pt"):
        assert (stopped.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
