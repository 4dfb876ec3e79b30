"""L-BFGS on fixed examples: lower loss, the module's own loss, the same result twice."""

import pytest
import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import decoder_for, evaluate
from adderlab.evaluation.suites import adderboard, fresh
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer, build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.task.sampling import uniform_pairs
from adderlab.training.finetune import LBFGS, minimise
from helpers.models import config_of
from helpers.reference import reference_checkpoint

TWO_LAYERS = ModelConfig(n_layer=2, d_model=4, d_ff=4)


def parameters(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def loss_of(model: Transformer, params: dict[str, torch.Tensor], a_BJ, b_BJ) -> float:
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(params[name])
        return float(model.double().loss(*model.layout.encode(a_BJ, b_BJ)))


@pytest.mark.parametrize("config", [get_preset("67p").config, TWO_LAYERS], ids=["tables", "oracle"])
def test_the_loss_it_reports_is_the_models_own_and_falls(config: ModelConfig) -> None:
    model = build_model(config, 3)
    start = parameters(model)
    # More than one chunk, and not a whole number of them.
    a_BJ, b_BJ = uniform_pairs(7, 300)
    result = minimise(config, start, a_BJ, b_BJ, LBFGS(iterations=4))
    assert 0 < result.iterations <= 4
    assert result.loss_after < result.loss_before
    assert result.loss_before == pytest.approx(loss_of(model, start, a_BJ, b_BJ), rel=1e-6)
    for name, tensor in result.params.items():
        assert tensor.dtype == torch.float32 and tensor.shape == start[name].shape
    # The result is rounded to single precision on the way out.
    after = loss_of(build_model(config, 3), result.params, a_BJ, b_BJ)
    assert result.loss_after == pytest.approx(after, rel=1e-4)


def test_the_same_arguments_give_the_same_bits() -> None:
    config = get_preset("67p").config
    start = parameters(build_model(config, 4))
    a_BJ, b_BJ = uniform_pairs(7, 40)
    one, other = (minimise(config, start, a_BJ, b_BJ, LBFGS(iterations=3)) for _ in range(2))
    assert all(torch.equal(one.params[name], other.params[name]) for name in start)


def test_weights_that_are_no_numbers_are_left_alone() -> None:
    config = get_preset("67p").config
    start = parameters(build_model(config, 4))
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in start.items()}
    result = minimise(config, broken, *uniform_pairs(7, 10), LBFGS(iterations=3))
    assert all(tensor.isnan().all() for tensor in result.params.values())


@pytest.mark.slow
def test_it_finishes_the_published_122_parameter_model() -> None:
    """AdamW left 5 errors of 10,010; the author reports none after L-BFGS."""
    checkpoint = load_checkpoint(reference_checkpoint("qwen3_122p.npz"))
    config = config_of(checkpoint)
    result = minimise(config, checkpoint.params, *uniform_pairs(42, 2048))
    assert result.loss_after < result.loss_before / 2
    stacked = {name: tensor[None] for name, tensor in result.params.items()}
    decoder = decoder_for(config, stacked, TorchEngine())
    for suite in (adderboard(), fresh(20_000)):
        assert evaluate(decoder, config.token_layout, suite).total.errors <= 1
