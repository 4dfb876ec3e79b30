"""Any number of columns, any base: digits, layouts, sampling, hold-outs and suites against integers."""

import dataclasses
from typing import Any

import pytest
import torch

from adderlab.engine.native.engine import NativeSampler
from adderlab.errors import UsageError
from adderlab.evaluation.suites import (
    adderboard,
    edge_cases,
    every_pair,
    fresh,
    of_pairs,
    parse_suite,
    published,
    strata,
)
from adderlab.files import schema
from adderlab.models.config import ModelConfig, changed, resized
from adderlab.models.zoo import at_size, get_preset
from adderlab.task.addition import (
    LAYOUTS,
    Addition,
    add,
    from_digits,
    get_layout,
    pairs_from_ints,
    to_digits,
)
from adderlab.task.r456 import R456Sampler, holdout
from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    PATTERNS,
    R456_CURRICULUM,
    CarryMix,
    DataConfig,
    Phase,
    sample_pairs,
    uniform_pairs,
)

SIZES = [
    Addition(columns=columns, base=base)
    for columns, base in (
        (1, 2),
        (3, 10),
        (7, 2),
        (2, 16),
        (4, 3),
        (12, 10),
        (18, 10),
        (18, 2),
        (15, 16),
    )
]
MIXED = DataConfig(
    curriculum=MICROADDER_CURRICULUM,
    carry_mix=CarryMix(share=0.8, fade_start=10, fade_end=20_000, patterns=PATTERNS),
)
PLAIN = DataConfig(curriculum=R456_CURRICULUM)


def names(task: Addition) -> str:
    return f"{task.columns} columns base {task.base}"


def drawn(task: Addition, count: int = 40) -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(task.columns)
    return torch.randint(0, task.limit, (count, 2), generator=generator).tolist()


@pytest.mark.parametrize("task", SIZES, ids=names)
def test_digits_and_sums_are_those_of_integers(task: Addition) -> None:
    pairs = [*drawn(task), *edge_cases(task)]
    a_BJ, b_BJ = pairs_from_ints(pairs, task)
    assert from_digits(a_BJ, task.base).tolist() == [a for a, _ in pairs]
    assert from_digits(add(a_BJ, b_BJ, task.base), task.base).tolist() == [a + b for a, b in pairs]
    assert to_digits(torch.tensor([task.limit - 1]), task.columns, task.base).unique().tolist() == [
        task.base - 1
    ]
    assert task.numeral(task.limit - 1) == "0123456789ABCDEF"[task.base - 1] * task.columns


@pytest.mark.parametrize("task", SIZES, ids=names)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_place_every_token_once(name: str, task: Addition) -> None:
    if name == "pairs" and task.base == 16:
        with pytest.raises(UsageError, match="set base to 15"):
            get_layout(name, task)
        return
    layout = get_layout(name, task)
    a_BJ, b_BJ = pairs_from_ints(drawn(task), task)
    tokens_BP, targets_BA = layout.encode(a_BJ, b_BJ)
    assert tokens_BP.shape[1] == layout.num_positions and targets_BA.shape[1] == layout.num_answers
    assert all(map(torch.equal, layout.decode(tokens_BP), (a_BJ, b_BJ)))
    assert torch.equal(targets_BA[:, : task.columns + 1], add(a_BJ, b_BJ, task.base))
    operands = layout.a_positions if layout.pairs else layout.a_positions + layout.b_positions
    written = sorted([*operands, *(p for p, _ in layout.separators)])
    assert written == list(range(layout.num_prompt))
    specials = {token for _, token in layout.separators} | {layout.end_token or 0}
    assert max(int(tokens_BP.max()), *specials) < layout.vocab_size
    assert layout.addition == task


@pytest.mark.parametrize("task", SIZES, ids=names)
@pytest.mark.parametrize("data", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_samples_are_operands_and_the_native_sampler_draws_the_same(data, task: Addition) -> None:
    layout, seeds_S = get_layout("P", task), torch.tensor([0, 5, 2**40 + 3])
    sample = NativeSampler(data, layout)
    for step in (0, 1999, 7001):
        a_SBJ, b_SBJ = sample_pairs(data, seeds_S, step, 200, task)
        assert int(a_SBJ.max()) < task.base and int(b_SBJ.max()) < task.base
        longest = data.curriculum.max_digits(step, task.columns)
        if data.carry_mix is None:
            assert not a_SBJ[..., longest:].any()
        want = layout.encode(a_SBJ, b_SBJ)
        assert all(map(torch.equal, sample(seeds_S, step, 200), want)), step
    if task.base > 2:
        a_BJ, _ = uniform_pairs(1, 4000, task)
        share = a_BJ.double().mean(0) / (task.base - 1)
        assert (share - 0.5).abs().max() < 0.05, share


def test_phases_keep_their_share_of_the_columns() -> None:
    assert [Phase(until=None, max_digits=3).columns(n) for n in (1, 3, 10, 15)] == [1, 1, 3, 5]
    assert [Phase(until=None, max_digits=10).columns(n) for n in (1, 3, 10, 18)] == [1, 3, 10, 18]


@pytest.mark.parametrize("task", SIZES, ids=names)
def test_holdouts_and_their_sampler(task: Addition) -> None:
    split = holdout(3, 50, 100, task)
    values = split.values()
    pairs = set(zip(values["val_a"].tolist(), values["val_b"].tolist(), strict=True))
    pairs |= set(zip(values["test_a"].tolist(), values["test_b"].tolist(), strict=True))
    assert len(pairs) == len(values["val_a"]) + len(values["test_a"]) <= max(2, task.num_pairs // 2) + 1
    assert len(values["val_a"]) >= 1
    sampler = R456Sampler(3, 64, split, R456_CURRICULUM.phases, task)
    for step in (0, 3000, 9000):
        a_BJ, b_BJ = sampler.next_pairs(step)
        a, b = (from_digits(x, task.base).tolist() for x in (a_BJ, b_BJ))
        assert max(*a, *b) < task.limit
        if split.spared:
            assert not pairs & set(zip(a, b, strict=True))


@pytest.mark.parametrize("task", SIZES, ids=names)
def test_suites_are_of_the_task(task: Addition) -> None:
    for suite in (published(task), adderboard(task), fresh(20, 0, task), strata(30, 0, task)):
        for group in suite.groups:
            assert group.a_BJ.shape[1] == group.b_BJ.shape[1] == task.columns
            assert int(group.a_BJ.max()) < task.base and int(group.b_BJ.max()) < task.base
    groups = {group.name: group for group in strata(30, 0, task).groups}
    sums = {
        name: from_digits(add(group.a_BJ, group.b_BJ, task.base), task.base)
        for name, group in groups.items()
    }
    top = task.numeral(task.limit - 1)
    assert set(sums[f"complements to {top}"].tolist()) == {task.limit - 1}
    assert set(sums[f"complements to 1{'0' * task.columns}"].tolist()) <= {0, task.limit}
    for length in range(1, task.columns + 1):
        least = task.base ** (length - 1) if length > 1 else 0
        value = from_digits(groups[f"length {length}"].a_BJ, task.base)
        assert least <= int(value.min()) and int(value.max()) < task.base**length
    longest = f"chain {task.columns} with carry"
    assert int(sums[longest].min()) >= task.limit


def test_every_pair_of_a_small_task_and_none_of_a_large_one() -> None:
    task = Addition(columns=2, base=3)
    (group,) = every_pair(task).groups
    pairs = zip(*(from_digits(x, 3).tolist() for x in (group.a_BJ, group.b_BJ)), strict=True)
    assert list(pairs) == [(a, b) for a in range(9) for b in range(9)]
    with pytest.raises(UsageError, match=r"10\^20 pairs; at most 10,000,000"):
        parse_suite("all")
    with pytest.raises(UsageError, match="0 to 8, not 9"):
        of_pairs([(9, 0)], task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": 0}, "columns must be 1 to 18, not 0"),
        ({"columns": 19}, "columns must be 1 to 18, not 19"),
        ({"base": 17}, "base must be 2 to 16, not 17"),
        ({"columns": 18, "base": 16}, "set columns to 15 or fewer"),
    ],
)
def test_sizes_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig(**settings)


def test_a_size_at_its_default_is_in_no_file() -> None:
    """Certificates bind a hash of the configuration, and runs one of theirs."""
    assert not {"columns", "base"} & set(schema.to_dict(ModelConfig()))
    small = ModelConfig(columns=3, base=7)
    assert schema.from_dict(ModelConfig, schema.to_dict(small)) == small
    assert schema.to_dict(small)["columns"] == 3 and schema.to_dict(small)["base"] == 7


def test_presets_keep_their_architecture_at_other_sizes() -> None:
    for name in ("777p", "456p", "122p", "7p"):
        own = get_preset(name)
        other = at_size(own, columns=3, base=16)
        assert other.name == f"{name}@3b16" and at_size(own, columns=10) is own
        same = dataclasses.replace(other.config, columns=10, base=10, position_rows=None)
        assert same == dataclasses.replace(own.config, position_rows=None)
    spare = get_preset("777p").config
    assert spare.position_rows == spare.token_layout.num_positions + 2
    wide = changed(spare, [("columns", "15"), ("d_ff", "3")])
    assert wide.position_rows == wide.token_layout.num_positions + 2 and wide.d_ff == 3
    assert resized(wide, columns=10).position_rows == spare.position_rows
    assert [at_size(get_preset(n), columns=3).parameters for n in ("456p", "122p")] == [393, 122]
