"""SGD and Muon against PyTorch's own, seed by seed, and a seed against itself among others."""

import pytest
import torch
from torch import Tensor

from adderlab.engine.native import engine as native
from adderlab.engine.native.build import NativeUnavailable
from adderlab.engine.step_batch import Muon, descend, is_matrix, orthogonalised, sgd, update_for
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.zoo import get_preset
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe, learning_rate
from helpers.optimiser_steps import numbers, settings, state_of

SHAPES = {
    "token_emb.weight": (5, 3),
    "blocks.0.up": (4, 3),
    "blocks.0.norm": (3,),
    "blocks.0.down": (3, 4),
}
SIZES = [15, 12, 3, 12]


def _gradients(seeds: int, steps: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, seeds, sum(SIZES), generator=generator, dtype=dtype)


def test_sgd_is_pytorch_s_with_decay_taken_off_the_weights() -> None:
    start_SN = _gradients(2, 1)[0]
    ours, own = state_of(start_SN, [0.1, 0.0]), {"lr": 0.03, "beta1": 0.8, "clip": torch.inf}
    theirs = [torch.nn.Parameter(row.clone()) for row in start_SN]
    optimizers = [torch.optim.SGD([p], lr=0.03, momentum=0.8) for p in theirs]
    for step, grad_SN in enumerate(_gradients(2, 30), 1):
        descend(ours, grad_SN, *numbers(ours, [settings(step, **own)] * 2), update=sgd)
        for parameter, optimizer, grad_N, decay in zip(
            theirs, optimizers, grad_SN, (0.1, 0.0), strict=True
        ):
            parameter.data.mul_(1 - 0.03 * decay)
            parameter.grad = grad_N.clone()
            optimizer.step()
    want_SN = torch.stack([p.detach() for p in theirs])
    torch.testing.assert_close(ours.params_SN, want_SN, rtol=1e-10, atol=1e-12)


def _exact_muon(start_N: Tensor, grads: Tensor, lr: float, beta1: float, decay: float) -> Tensor:
    """The formulas of the paper and of PyTorch's documentation, matrix by matrix in float64; what is no
    matrix by torch.optim.AdamW."""
    parts = [torch.nn.Parameter(p.clone()) for p in start_N.split(SIZES)]
    others = [parts[0], parts[2]]
    adamw = torch.optim.AdamW(others, lr=lr, betas=(beta1, 0.999), weight_decay=decay)
    momentum = [torch.zeros(4, 3, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)]
    for grad_N in grads:
        for part, grad in zip(parts, grad_N.split(SIZES), strict=True):
            part.grad = grad.clone()
        adamw.step()
        for buffer, part in zip(momentum, (parts[1], parts[3]), strict=True):
            assert part.grad is not None
            grad = part.grad.reshape(buffer.shape)
            buffer.mul_(beta1).add_(grad, alpha=1 - beta1)
            x = grad * (1 - beta1) + buffer * beta1
            x = x / x.norm()
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
            part.data.mul_(1 - lr * decay)
            part.data -= lr * 0.2 * 2.0 * x.flatten()  # 0.2 sqrt(4)
    return torch.cat([part.detach() for part in parts])


def test_muon_is_its_formula_and_adamw_for_the_rest() -> None:
    start_SN, grads = _gradients(2, 1)[0], _gradients(2, 20)
    ours, muon = state_of(start_SN, [0.1, 0.0]), Muon(SHAPES)
    for step, grad_SN in enumerate(grads, 1):
        each = [settings(step, lr=0.02, beta1=0.9)] * 2
        descend(ours, grad_SN, *numbers(ours, each), update=muon)
    for s, decay in enumerate((0.1, 0.0)):
        want_N = _exact_muon(start_SN[s], grads[:, s], 0.02, 0.9, decay)
        # Newton-Schulz on a 4 x 3 matrix runs over its shorter side here, its longer one there.
        torch.testing.assert_close(ours.params_SN[s], want_N, rtol=1e-9, atol=1e-11)


def test_muon_is_pytorch_s_as_far_as_bfloat16_goes() -> None:
    start_SN, grads = _gradients(1, 1)[0].float(), _gradients(1, 10, torch.float64).float()
    ours, muon = state_of(start_SN, [0.1]), Muon(SHAPES)
    names = list(SHAPES)
    parts = dict(zip(names, start_SN[0].split(SIZES), strict=True))
    theirs = {
        n: torch.nn.Parameter(parts[n].reshape(SHAPES[n]).clone())
        for n in names
        if is_matrix(n, SHAPES[n])
    }
    optimizer = torch.optim.Muon(
        list(theirs.values()), lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for step, grad_SN in enumerate(grads, 1):
        descend(ours, grad_SN, *numbers(ours, [settings(step, lr=0.02)]), update=muon)
        given = dict(zip(names, grad_SN[0].split(SIZES), strict=True))
        for name, parameter in theirs.items():
            parameter.grad = given[name].reshape(SHAPES[name]).clone()
        optimizer.step()
    got = dict(zip(names, ours.params_SN[0].split(SIZES), strict=True))
    for name, parameter in theirs.items():
        moved = (parameter.detach().flatten() - parts[name]).abs().max()
        off = (got[name] - parameter.detach().flatten()).abs().max()
        assert off < 0.02 * moved, (name, off, moved)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    x_SRC = torch.randn(20, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalised(x_SRC))
    assert values.max() < 1.25 and values.median() > 0.6
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 2)), torch.zeros(1, 3, 2))


def test_embeddings_and_heads_are_no_matrices_for_muon() -> None:
    shapes = {"token_emb.weight": (14, 7), "pos_emb.A": (33, 3), "head_proj.weight": (2, 5)}
    assert not any(is_matrix(name, shape) for name, shape in shapes.items())
    assert is_matrix("blocks.0.mlp.fc1.A", (7, 3)) and not is_matrix("blocks.0.ln1.weight", (7,))


CPU = torch.device("cpu")
QUICK = {
    "steps": 6,
    "warmup_steps": 2,
    "batch_size": 8,
    "eval_interval": 6,
    "val_size": 20,
    "test_size": 20,
}


def _population(optimiser: str, seeds: tuple[int, ...], engine: str = "torch") -> Population:
    config = get_preset("456p").config
    recipe = Recipe(optimiser=optimiser, lr=0.01, **QUICK)  # type: ignore[arg-type]
    try:
        chosen = native.NativeEngine(1) if engine == "native" else TorchEngine()
    except NativeUnavailable as error:
        pytest.skip(str(error))
    return Population(config, recipe, seeds, objective_for(config, chosen, CPU), CPU)


def _trained(population: Population) -> Tensor:
    while not population.done:
        population.advance(3)
    return population.flat_SN


@pytest.mark.parametrize("optimiser", ["muon", "sgd"])
def test_a_seed_steps_alike_alone_and_among_others(optimiser: str) -> None:
    together = _trained(_population(optimiser, (3, 4, 90)))
    assert torch.equal(_trained(_population(optimiser, (4,)))[0], together[1])
    assert not torch.equal(together, _trained(_population("adamw", (3, 4, 90))))


@pytest.mark.parametrize("optimiser", ["muon", "sgd"])
def test_the_native_engine_gives_them_its_gradients(optimiser: str) -> None:
    native_SN = _trained(_population(optimiser, (3, 4), "native"))
    torch.testing.assert_close(native_SN, _trained(_population(optimiser, (3, 4))), rtol=1e-4, atol=1e-5)


def test_a_line_goes_from_the_peak_to_its_end() -> None:
    recipe = Recipe(steps=1100, warmup_steps=100, lr=0.02, min_lr_ratio=0.25, schedule="linear")
    assert learning_rate(recipe, 99) == pytest.approx(0.02)
    assert learning_rate(recipe, 600) == pytest.approx(0.0125)
    assert learning_rate(recipe, 1100) == pytest.approx(0.005)


def test_the_default_is_adamw_and_is_not_named_in_files() -> None:
    from adderlab.files import schema

    assert update_for("adamw", {}).__name__ == "adamw"  # type: ignore[attr-defined]
    assert "optimiser" not in schema.to_dict(Recipe())
    assert (
        schema.from_dict(Recipe, schema.to_dict(Recipe(optimiser="muon")), "recipe").optimiser == "muon"
    )
