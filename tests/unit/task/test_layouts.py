"""Layouts: what is written is what is read back, and the published sequences as text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adderlab.errors import UsageError
from adderlab.task.addition import (
    LAYOUTS,
    Layout,
    answers_correct,
    from_digits,
    get_layout,
    pairs_from_ints,
)

operands = st.integers(0, 10**10 - 1)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))


def written(layout: Layout, a: int, b: int) -> str:
    tokens_BP, targets_BA = layout.encode(*pairs_from_ints([(a, b)]))
    whole = [*tokens_BP[0].tolist(), targets_BA[0, -1].item()]
    return "".join(layout.vocabulary[int(token)] for token in whole)


@every_layout
@given(st.lists(st.tuples(operands, operands), min_size=1, max_size=8))
def test_encode_and_decode(layout: Layout, values: list[tuple[int, int]]) -> None:
    a_BJ, b_BJ = pairs_from_ints(values)
    tokens_BP, targets_BA = layout.encode(a_BJ, b_BJ)
    assert tokens_BP.shape == (len(values), layout.num_positions)
    assert targets_BA.shape == (len(values), layout.num_answers)
    assert max(int(tokens_BP.max()), int(targets_BA.max())) < layout.vocab_size
    back_a, back_b = layout.decode(tokens_BP)
    assert torch.equal(back_a, a_BJ) and torch.equal(back_b, b_BJ)
    assert from_digits(targets_BA[:, :11]).tolist() == [a + b for a, b in values]
    # Step i reads up to its query position, and its target is the token that follows.
    for i, position in enumerate(layout.query_positions[:-1]):
        assert torch.equal(tokens_BP[:, position + 1], targets_BA[:, i])


@every_layout
def test_prompt_is_the_start_of_the_sequence(layout: Layout) -> None:
    a_BJ, b_BJ = pairs_from_ints([(1234567890, 9876543210), (7, 0)])
    prompt_BT = layout.encode_prompt(a_BJ, b_BJ)
    assert torch.equal(prompt_BT, layout.encode(a_BJ, b_BJ)[0][:, : layout.num_prompt])
    assert layout.query_positions[0] == layout.num_prompt - 1


def test_sequences_as_the_sources_write_them() -> None:
    assert written(get_layout("P"), 1234567890, 42) == "1234567890+0000000042=23976543210<EOS>"
    assert (
        written(get_layout("S"), 1234567890, 42)
        == "0" + "0987654321" + "00" + "2400000000" + "0" + "23976543210"
    )
    assert (
        written(get_layout("M"), 1234567890, 42)
        == "0987654321" + "0" + "2400000000" + "0" + "23976543210" + "0"
    )
    assert (
        written(get_layout("C"), 1234567890, 42)
        == "0" + "09876543210" + "0" + "24000000000" + "0" + "23976543210"
    )
    assert written(get_layout("M14"), 1234567890, 42) == "0987654321+2400000000=23976543210<EOS>"


@every_layout
def test_leading_dimensions_are_kept(layout: Layout) -> None:
    a_BJ, b_BJ = pairs_from_ints([(i * 7919, i * 104729) for i in range(6)])
    flat, _ = layout.encode(a_BJ, b_BJ)
    stacked, _ = layout.encode(a_BJ.reshape(2, 3, 10), b_BJ.reshape(2, 3, 10))
    assert torch.equal(stacked, flat.reshape(2, 3, -1))


def test_answers() -> None:
    layout = get_layout("P")
    targets_BA = layout.encode(*pairs_from_ints([(5, 7)]))[1]
    answers_BA = targets_BA.clone()
    answers_BA[0, 3], answers_BA[0, 11] = 9, 0
    assert answers_correct(answers_BA, targets_BA, layout)[0].tolist() == [i != 3 for i in range(11)]
    assert layout.answer_text(answers_BA[0]) == "00000009012"
    answers_BA[0, 10] = 13
    assert layout.answer_text(answers_BA[0]) == "<EOS>0000009012"


def test_unknown_layout() -> None:
    with pytest.raises(UsageError, match="no layout 'Q'; there are P, P13"):
        get_layout("Q")
