"""The readable model starts where the published program starts and reads its checkpoints."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from adderlab.models.transformer import Transformer, build_model
from adderlab.models.zoo import get_preset
from adderlab.task.addition import pairs_from_ints, to_digits
from helpers.reference import reference_checkpoint


def test_draws_of_456p_are_those_of_the_published_program() -> None:
    """The published program's first training loss with seed 43, from its own data stream, is 2.632636.

    Its sampler: a generator of seed 43 + 1337; per example a length of 1 to 3, then a, then b.
    """
    model = build_model(get_preset("456p").config, 43)
    generator = torch.Generator().manual_seed(43 + 1337)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator, dtype=torch.int64))

    pairs = []
    for _ in range(512):
        limit = 10 ** draw(1, 4)
        pairs.append((draw(0, limit), draw(0, limit)))
    tokens_BP, targets_BA = model.layout.encode(*pairs_from_ints(pairs))
    assert model.loss(tokens_BP, targets_BA).item() == pytest.approx(2.632636, abs=2e-6)


def test_a_seed_is_a_pure_function() -> None:
    config = get_preset("456p").config
    before = torch.random.get_rng_state()
    first, second = build_model(config, 7), build_model(config, 7)
    assert torch.equal(before, torch.random.get_rng_state())
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(first.token_emb.table(), build_model(config, 8).token_emb.table())


@pytest.mark.parametrize(
    ("preset", "file"), [("456p", "lowrank_456p_s43.pt"), ("512p", "lowrank_512p_s42.pt")]
)
def test_published_checkpoints_load_and_add(preset: str, file: str) -> None:
    saved = torch.load(reference_checkpoint(file), map_location="cpu", weights_only=True)
    model = Transformer(get_preset(preset).config)
    model.load_state_dict(saved["model_state"])
    pairs = torch.randint(0, 10**10, (2, 500), generator=torch.Generator().manual_seed(5))
    a_BJ, b_BJ = to_digits(pairs[0]), to_digits(pairs[1])
    _, targets_BA = model.layout.encode(a_BJ, b_BJ)
    answers_BA = model.generate(model.layout.encode_prompt(a_BJ, b_BJ))
    assert torch.equal(answers_BA, targets_BA)


def test_models_drawn_in_several_threads_are_those_drawn_alone() -> None:
    """As a search draws them, one seed on each core: PyTorch has one generator for all threads."""
    config = get_preset("67p").config
    want = [build_model(config, seed).state_dict() for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        got = pool.map(lambda seed: build_model(config, seed).state_dict(), range(40))
        for one, other in zip(want, got, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
