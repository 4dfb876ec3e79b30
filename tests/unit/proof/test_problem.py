"""Tables as the prover sees them: refusals, folding, hashing."""

import pytest
import torch

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import tables
from adderlab.models.transformer import build_model
from adderlab.proof.problem import problem_from_tables, tables_sha256
from adderlab.proof.witnesses import pair_margins, to_digits
from oracle.random_tables import with_value_dim


def random_tables(**settings: object):
    config = ModelConfig(**settings)  # type: ignore[arg-type]
    model = build_model(config, seed=1)
    params = {name: p.detach().double()[None] * 8 for name, p in model.named_parameters()}
    return tables(config, params)


def test_more_than_one_seed_and_broken_numbers_are_refused() -> None:
    form = random_tables()
    two = form.map(lambda table: torch.cat([table, table]))
    with pytest.raises(UsageError, match="one model, not 2"):
        problem_from_tables(two)
    broken = form.map(
        lambda table: torch.full_like(table, torch.nan) if table is form.head["fc1"] else table
    )
    with pytest.raises(UsageError, match="'fc1'"):
        problem_from_tables(broken)


def test_a_value_dimension_above_the_width_is_folded() -> None:
    form = random_tables()
    H, E, D = form.form.heads, form.form.value_dim, form.form.width
    spare = torch.randn(1, *form.value.shape[1:-1], 5, dtype=torch.float64)
    out = form.head["attn_out"].unflatten(1, (H, E))
    wide = with_value_dim(
        form, torch.cat([form.value, spare], -1), torch.cat([out, torch.zeros(1, H, 5, D).double()], 2)
    )
    folded, plain = problem_from_tables(wide), problem_from_tables(form)
    assert folded.bottleneck == D == plain.bottleneck
    a, b = (to_digits(values, 10) for values in ([123, 9999999999], [987654321, 1]))
    for mine, other in zip(folded.steps, plain.steps, strict=True):
        assert pair_margins(folded, mine, a, b) == pytest.approx(
            pair_margins(plain, other, a, b), abs=1e-10
        )


@pytest.mark.parametrize("layout", ["P", "P13", "S", "M", "M13", "M14"])
def test_margins_are_those_of_the_model_in_every_layout(layout: str) -> None:
    config = ModelConfig(layout=layout, norm="rms")
    model = build_model(config, seed=2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 8
    params = {name: p.detach()[None] for name, p in model.named_parameters()}
    problem = problem_from_tables(tables(config, params))
    values = ([0, 9999999999, 1234567890], [5, 1, 9876543219])
    a, b = (to_digits(each, 10) for each in values)
    tokens, targets = model.layout.encode(torch.from_numpy(a).byte(), torch.from_numpy(b).byte())
    with torch.no_grad():
        logits = model.answer_logits(tokens)
    for step in problem.steps:
        z, right = logits[:, step.index], targets[:, step.index].long()
        mine = z[torch.arange(3), right]
        z[torch.arange(3), right] = -torch.inf
        assert pair_margins(problem, step, a, b) == pytest.approx((mine - z.amax(1)).numpy(), abs=1e-9)


def test_the_hash_sees_every_table_and_number() -> None:
    form = random_tables()
    seen = {tables_sha256(form)}
    for _, table in form.items():
        changed = table.contiguous().clone()
        changed.view(-1)[-1] += 1e-9
        other = form.map(lambda each, old=table, new=changed: new if each is old else each)
        seen.add(tables_sha256(other))
    assert len(seen) == 1 + len(list(form.items()))
    assert tables_sha256(random_tables()) in seen
