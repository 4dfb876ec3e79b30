"""Counts under every convention, from addresses and from text."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adderlab.publish.counting import Counts, Literals, TooMany, count, judge_claim, outside_the_count
from adderlab.publish.inside import holding
from adderlab.publish.inside.worker import count_literals
from helpers.golden import Golden

NONE = Literals(in_code=(), in_tables=0, packed=0)


def shown(value: Any, kind: str = "parameter") -> dict[str, Any]:
    """What the worker shows of it."""
    (entry,) = holding.shown([holding.Held(value, kind, getattr(value, "requires_grad", False))])
    return entry


def test_tied_and_viewed_numbers_count_once() -> None:
    weight = nn.Parameter(torch.rand(4, 3))
    tensors = [shown(weight), shown(weight.detach().t()), shown(weight.detach()[1:3, :2])]
    counts = count(tensors, NONE)
    assert counts.parameters == counts.with_others == 12
    assert counts.trainable == 12


def test_an_expanded_number_is_one_number_and_slices_of_one_store_are_not_all_of_it() -> None:
    one = torch.rand(1).expand(5, 7)
    store = torch.rand(10, 10)
    halves = [shown(store[:, :5]), shown(store[:, 3:])]
    assert count([shown(one)], NONE).parameters == 1
    assert count(halves, NONE).parameters == 100
    assert count(halves[:1], NONE).parameters == 50


def test_kinds_add_up(golden: Golden) -> None:
    frozen = nn.Parameter(torch.rand(5), requires_grad=False)
    learned, buffer, other = nn.Parameter(torch.rand(3)), torch.rand(7), torch.rand(11)
    tensors = [shown(frozen), shown(learned), shown(buffer, "buffer"), shown(other, "other")]
    counts = count(tensors, Literals(in_code=(1e-5, 3.5), in_tables=30, packed=0))
    assert counts.parameters == 8
    assert counts.trainable == 3
    assert counts.with_buffers == 15
    assert counts.with_others == 26
    assert counts.with_literals == 26 + 2 + (30 - 26)
    assert list(counts.named().values())[:5] == [8, 3, 15, 26, 32]
    golden("publish/outside_the_count.txt", "\n".join(outside_the_count(counts)) + "\n")


def test_scalars_and_empty_tensors() -> None:
    assert count([shown(torch.tensor(1.0)), shown(torch.rand(0, 5))], NONE).parameters == 1


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1]},
        {"shape": [2, 2]},
        {"shape": "many"},
        {"stride": [0.5]},
        {"start": None},
        {"start": 2**63},
        {"stride": [2**61]},
        {"kind": "mine"},
        {"values": [1.0, 2.0]},
        {"values": ["one", "two", "three"]},
        {"shape": [1] * 9, "stride": [1] * 9},
    ],
    ids=str,
)
def test_impossible_tensors_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        count([shown(torch.rand(3)) | change], NONE)


def test_many_large_tensors_are_refused() -> None:
    big = shown(torch.empty(900_000))
    with pytest.raises(TooMany, match="more than"):
        count([big | {"start": 10**7 * i} for i in range(30)], NONE)
    with pytest.raises(TooMany, match="1,000,000,000"):
        count([big | {"shape": [10**9]}], NONE)


def test_distinct_and_nonzero_values() -> None:
    weight = nn.Parameter(torch.tensor([[0.0, 1.5], [1.5, -2.0]]))
    tied = weight.detach()[0]
    counts = count([shown(weight), shown(tied), shown(torch.tensor([7.0, 8.0]), "buffer")], NONE)
    assert (counts.parameters, counts.distinct, counts.nonzero) == (4, 3, 3)
    many = count([{k: v for k, v in shown(weight).items() if k != "values"}], NONE)
    assert many.distinct is None and "distinct values" not in many.named()


@pytest.mark.parametrize("hidden", [1.0, -float("inf"), -1e9, torch.finfo(torch.float32).min])
def test_masks_are_apart(hidden: float) -> None:
    seen = torch.zeros(34, 34).masked_fill(torch.ones(34, 34, dtype=torch.bool).triu(1), hidden)
    entry = shown(seen, "buffer")
    entry["values"] = [str(value) if abs(value) == float("inf") else value for value in entry["values"]]
    counts = count([shown(nn.Parameter(torch.rand(5))), entry], NONE)
    assert counts.with_buffers == counts.with_others == 5
    assert counts.masks == 1156 and counts.named()["in 0/1 masks"] == 1156
    assert outside_the_count(counts) == []
    assert count([shown(nn.Parameter(torch.ones(3)))], NONE).parameters == 3, "a parameter is no mask"


def test_a_state_dict_held_again_counts_once_shared_or_copied() -> None:
    model = nn.Linear(3, 2)
    again = [shown(tensor, "other") for tensor in model.state_dict().values()]
    copied = [shown(tensor.clone(), "loose") for tensor in model.state_dict().values()]
    counts = count([*map(shown, model.parameters()), *again, *copied], NONE)
    assert counts.parameters == counts.with_others == 8


def test_arrays_and_tables() -> None:
    array = np.arange(1.0, 13.0).reshape(3, 4)
    entries = [shown(array, "held"), shown(array[::-1, ::2], "held"), shown([0.5, 0.25, 4.0], "held")]
    counts = count(entries, NONE)
    assert (counts.parameters, counts.distinct) == (15, 14)
    loose = count([shown([0.5] * 9, "loose")], Literals(in_code=(), in_tables=4, packed=0))
    assert (loose.parameters, loose.with_others, loose.with_literals) == (0, 0, 9)
    whole = count([shown(torch.arange(40), "buffer")], NONE)
    assert (whole.whole, whole.with_others) == (40, 0)
    assert "40 whole numbers" in outside_the_count(whole)[0]


def counts(parameters: int, trainable: int, buffers: int) -> Counts:
    return Counts(
        parameters=parameters,
        trainable=trainable,
        with_buffers=buffers,
        with_others=buffers,
        with_literals=buffers + 2,
        distinct=55,
        nonzero=98,
        masks=1156,
        whole=0,
        literals=NONE,
    )


@pytest.mark.parametrize(
    ("claimed", "confirmed", "false", "words"),
    [
        (100, True, False, ["100", "unique"]),
        (60, True, False, ["60", "100", "trainable"]),
        (55, True, False, ["55", "100", "distinct"]),
        (98, True, False, ["nonzero"]),
        (59, False, False, ["59", "100"]),
        (54, False, True, ["54", "100", "55"]),
        (130, True, False, ["buffers"]),
        (130 + 1156, True, False, ["masks"]),
        (132, True, False, ["literals"]),
        (500, True, False, ["500", "100"]),
        (None, None, False, ["None"]),
        ("100", True, False, ["100"]),
        ("1,286", True, False, ["1,286"]),
        (100.0, True, False, ["100"]),
        ("a hundred", None, False, ["'a hundred'"]),
        (float("nan"), None, False, ["nan"]),
        (True, None, False, ["True"]),
        (-1, False, True, ["-1"]),
    ],
)
def test_claims(claimed: Any, confirmed: bool | None, false: bool, words: list[str]) -> None:
    claim = judge_claim(claimed, counts(100, 60, 130))
    assert (claim.confirmed, claim.false) == (confirmed, false)
    assert all(word in claim.sentence for word in words), claim.sentence


def test_a_frozen_model_is_not_excused() -> None:
    """That nothing in it is trainable does not make every claim true."""
    frozen = nn.Parameter(torch.rand(1100), requires_grad=False)
    assert judge_claim(100, count([shown(frozen)], NONE)).false


@pytest.mark.parametrize(
    ("text", "in_code", "in_tables", "packed"),
    [
        ("x = 1e-5 + 3", [1e-5], 0, 0),
        ("def f(x, eps=0.5):\n    return x * 2.0 + (1, 2.5)[1]", [0.5, 2.0, 2.5], 0, 0),
        ("W = [[1.0, 2.0], [3.0, 4.0]]", [], 4, 0),
        ("W = {'a': (0.5, 1.5, 2.5, 3.5), 'b': 7}", [], 4, 0),
        ("W = '0x1.8p-3 -0x1p+0 0x1.2612fp-1'", [], 3, 0),
        ("W = ('0x1.8p-3',)", [], 1, 0),
        ("W = '0.5, -.25; [1.5e-3] 2e5'", [], 4, 0),
        ("W = 'about 0.5 or 0.7'", [], 0, 0),
        ("'''Says 0.5 0.25 0.125 0.75 of it.'''\nx = 1", [], 0, 0),
        ("W = b'" + "QUJD" * 30 + "'", [], 0, 120),
        ("n = 34\nm = [1, 2, 3, 4, 5]", [], 0, 0),
        ("x = [a * 0.5 for a in (1.0, 2.0)]", [0.5, 1.0, 2.0], 0, 0),
    ],
)
def test_literals(text: str, in_code: list[float], in_tables: int, packed: int) -> None:
    found = count_literals(text)
    assert sorted(found["in_code"]) == sorted(in_code)
    assert (found["in_tables"], found["packed"]) == (in_tables, packed)
    assert Literals.of(found).in_tables == in_tables
