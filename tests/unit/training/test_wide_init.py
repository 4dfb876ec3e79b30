"""Starts drawn wider than the model draws them, and the factor on the logits that only the loss sees."""

import dataclasses

import pytest
import torch

from adderlab.engine.native.engine import NativeEngine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.task.sampling import sample_pairs
from adderlab.training.ingredients import Restarts, WideInit
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe, Stage
from adderlab.training.start import check_fits, start

CPU = torch.device("cpu")
CONFIG = get_preset("44p").config
ARC = (2.0, -0.45, 0.1)
RECIPE = Recipe(
    steps=20,
    batch_size=16,
    warmup_steps=2,
    val_size=40,
    test_size=20,
    eval_interval=5,
    data=UNIFORM_PAIRS,
)
WIDE = dataclasses.replace(RECIPE, wide_init=WideInit(arc=ARC), restarts=Restarts(halve_at=(3, 8, 10)))
NORM = "blocks.0.ln1.weight"


def test_a_wide_start_differs_in_maps_signs_and_arc_and_in_nothing_else() -> None:
    own = start(CONFIG, dataclasses.replace(WIDE, wide_init=None), (3,))
    wide = start(CONFIG, WIDE, (3,))
    assert {name: t.shape for name, t in own.items()} == {name: t.shape for name, t in wide.items()}
    unchanged = {name for name in own if torch.equal(own[name], wide[name])}
    assert unchanged == {"blocks.0.attn.q_norm.weight", "blocks.0.attn.k_norm.weight"}
    assert [wide[f"token_emb.{name}"][0].item() for name in ("radius", "start", "stride")] == (
        pytest.approx(ARC)
    )
    # The weight is 1 in every channel of every draw before, and 1 or -1 after, not alike in all draws.
    assert torch.equal(own[NORM], torch.ones_like(own[NORM]))
    assert torch.equal(wide[NORM].abs(), own[NORM])
    assert 3 <= len(torch.unique(wide[NORM], dim=0)) <= 8
    # Xavier: uniform within sqrt(6 / (in + out)), against N(0, 0.02).
    for name, tensor in wide.items():
        if name.endswith(("qkv_shared.weight", "fc1.weight", "gate.weight", "fc2.weight")):
            bound = (6 / sum(tensor.shape[1:])) ** 0.5
            assert bound * 0.8 < tensor.abs().max() <= bound, name
            assert own[name].abs().max() < 0.1, name


def test_a_wide_start_is_the_seeds_own() -> None:
    together, alone = start(CONFIG, WIDE, (7, 3)), start(CONFIG, WIDE, (3,))
    for name, tensor in alone.items():
        assert torch.equal(together[name][8:], tensor), name
    assert not torch.equal(together[NORM][:8], together[NORM][8:])


def test_signs_can_be_left_as_they_are() -> None:
    own = start(dataclasses.replace(CONFIG, init="xavier"), RECIPE, (3,))
    same = start(CONFIG, dataclasses.replace(RECIPE, wide_init=WideInit(signs=False)), (3,))
    assert all(torch.equal(own[name], same[name]) for name in own)


def test_models_that_cannot_start_wide_are_refused() -> None:
    with pytest.raises(UsageError, match="radius"):
        WideInit(arc=(0.0, 0.0, 0.1))
    with pytest.raises(UsageError, match=r"table of them.*recipe\.wide_init\.arc=null"):
        check_fits(get_preset("89p").config, WIDE, (0,))
    with pytest.raises(UsageError, match=r"recipe\.wide_init\.signs=false"):
        check_fits(get_preset("7p").config, WIDE, (0,))


@pytest.mark.parametrize("name", ["44p", "311p", "7p", "1644p"])
def test_the_loss_and_nothing_else_sees_the_factor(name: str) -> None:
    config, factor = get_preset(name).config, 20.0
    params = stack_parameters([build_model(dataclasses.replace(config, init="xavier"), 5)])
    pairs = sample_pairs(UNIFORM_PAIRS, torch.tensor([5]), 0, 16)
    tokens, targets = config.token_layout.encode(*pairs)
    plain = objective_for(config, TorchEngine(), CPU)
    scaled = plain.sharpened(factor)

    model = build_model(config, 5)
    model.load_state_dict({name: tensor[0] for name, tensor in params.items()}, strict=False)
    logits_BAV = model.answer_logits(tokens[0])
    wanted = torch.nn.functional.cross_entropy(
        factor * logits_BAV.flatten(0, 1), targets[0].long().flatten()
    )
    torch.testing.assert_close(scaled.loss_and_grad(params, tokens, targets)[0][0], wanted)
    assert abs(wanted - plain.loss_and_grad(params, tokens, targets)[0][0]) > 0.01
    prompt = tokens[..., : config.token_layout.num_prompt]
    assert torch.equal(plain.decode(params, prompt), scaled.decode(params, prompt))


@pytest.mark.slow
def test_the_native_engine_sees_it_too() -> None:
    recipe = dataclasses.replace(WIDE, logit_scale=30.0)
    native, slow = (
        Population(CONFIG, recipe, (4, 9), objective_for(CONFIG, engine, CPU), CPU)
        for engine in (NativeEngine(1), TorchEngine())
    )
    torch.testing.assert_close(native.advance(), slow.advance(), rtol=1e-5, atol=1e-6)
    assert native.config is CONFIG and CONFIG.logit_scale == 1.0


def test_a_stage_may_have_a_factor_of_its_own() -> None:
    sharper = Stage(steps=4, lr=1e-3, logit_scale=90.0)
    recipe = dataclasses.replace(RECIPE, logit_scale=30.0, stages=(sharper, Stage(steps=4)))
    objective = objective_for(CONFIG, TorchEngine(), CPU)
    population = Population(CONFIG, recipe, (4, 9), objective, CPU)
    seen = set[float]()
    while not population.done:
        population.prepare()
        scale = 90.0 if 20 <= population.next_step < 24 else 30.0
        assert population.objective is objective.sharpened(scale)
        params, step = population.params(population.flat_SN.clone()), population.next_step
        loss_S = population.advance(1)
        tokens, targets = population.sample(torch.tensor([4, 9]), step, recipe.batch_size)
        wanted_S, _ = objective.sharpened(scale).loss_and_grad(params, tokens, targets)
        torch.testing.assert_close(loss_S, wanted_S)
        seen.add(scale)
        if recipe.looks_at(population.next_step - 1):
            population.evaluate(loss_S)
    assert seen == {30.0, 90.0}


def test_a_factor_of_one_is_the_model_itself() -> None:
    objective = objective_for(CONFIG, TorchEngine(), CPU)
    assert objective.sharpened(1.0) is objective


def test_a_factor_must_be_positive() -> None:
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="logit_scale"):
            dataclasses.replace(RECIPE, logit_scale=wrong)
        with pytest.raises(UsageError, match="stage's logit_scale"):
            dataclasses.replace(RECIPE, stages=(Stage(logit_scale=wrong),))
