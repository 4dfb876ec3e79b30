"""Counts under every convention, from addresses and from text."""

from typing import Any

import pytest
import torch
from torch import nn

from adderlab.publish.counting import Counts, Literals, count, judge_claim, outside_the_count
from adderlab.publish.inside.watching import count_literals
from helpers.golden import Golden

NONE = Literals(in_code=(), in_tables=0, packed=0)


def shown(tensor: torch.Tensor, kind: str = "parameter") -> dict[str, Any]:
    return {
        "kind": kind,
        "trained": tensor.requires_grad,
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "start": tensor.data_ptr(),
        "size": tensor.element_size(),
    }


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
    assert list(counts.named().values()) == [8, 3, 15, 26, 32]
    golden("publish/outside_the_count.txt", "\n".join(outside_the_count(counts)) + "\n")


def test_scalars_and_empty_tensors() -> None:
    assert count([shown(torch.tensor(1.0)), shown(torch.rand(0, 5))], NONE).parameters == 1


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**9]},
        {"shape": [-1]},
        {"shape": [2, 2]},
        {"shape": "many"},
        {"stride": [0.5]},
        {"start": None},
        {"shape": [1] * 9, "stride": [1] * 9},
    ],
    ids=str,
)
def test_impossible_tensors_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        count([shown(torch.rand(3)) | change], NONE)


def test_many_large_tensors_are_refused() -> None:
    big = shown(torch.empty(900_000))
    with pytest.raises(ValueError, match="more than"):
        count([big | {"start": 10**7 * i} for i in range(3)], NONE)


def counts(parameters: int, trainable: int, buffers: int) -> Counts:
    return Counts(
        parameters=parameters,
        trainable=trainable,
        with_buffers=buffers,
        with_others=buffers,
        with_literals=buffers + 2,
        literals=NONE,
    )


@pytest.mark.parametrize(
    ("claimed", "true", "words"),
    [
        (100, True, ["100", "unique"]),
        (60, False, ["60", "100", "trainable"]),
        (59, False, ["59", "100"]),
        (130, True, ["buffers"]),
        (132, True, ["literals"]),
        (500, True, ["500", "100"]),
        (None, False, ["None"]),
        ("100", False, ["'100'"]),
        (True, False, ["True"]),
    ],
)
def test_claims(claimed: Any, true: bool, words: list[str]) -> None:
    verdict, sentence = judge_claim(claimed, counts(100, 60, 130))
    assert verdict is true
    assert all(word in sentence for word in words), sentence


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
