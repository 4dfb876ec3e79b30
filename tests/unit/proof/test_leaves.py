"""Leaves partition all pairs at every step."""

import numpy as np

from adderlab.proof.carries import fixed_digits, leaves
from adderlab.proof.witnesses import sums_of
from oracle.proof_twin import all_pairs, random_problem


def test_ten_columns_have_170300_leaves_that_sum_to_all_pairs() -> None:
    problem = random_problem(0, columns=10, style="P")
    sizes = []
    for step in problem.steps:
        leaf = leaves(step)
        assert sum(leaf.inputs_N.tolist()) == 10**20
        assert len(leaf.inputs_N) == step.num_leaves
        sizes.append(step.num_leaves)
    assert sizes == [100, 10_000, *[20_000] * 8, 200]
    assert sum(sizes) == 170_300


def test_every_pair_lies_in_exactly_one_leaf_of_each_step() -> None:
    problem = random_problem(0, columns=3, style="S")
    a, b = all_pairs(3)
    sums = sums_of(a, b)
    assert (sums @ 10 ** np.arange(4) == (a + b) @ 10 ** np.arange(3)).all()
    carry = np.zeros((len(a), 4), dtype=np.int64)
    for j in range(3):
        carry[:, j + 1] = (a[:, j] + b[:, j] + carry[:, j]) // 10
    for step in problem.steps:
        i, leaf = step.index, leaves(step)
        key = np.zeros(len(a), dtype=np.int64)
        if i:
            key = carry[:, i - 1] * 100 + a[:, i - 1] * 10 + b[:, i - 1]
        if i < 3:
            key = key * 100 + a[:, i] * 10 + b[:, i]
        assert (np.bincount(key, minlength=len(leaf.inputs_N)) == leaf.inputs_N).all()
        assert (leaf.target_N[key] == sums[:, i]).all()
        if i:
            assert (leaf.row_N[key] == sums[:, i - 1]).all()


def test_fixed_digits_name_the_leaf() -> None:
    step = random_problem(0, columns=4).steps[2]
    leaf = leaves(step)
    digits, carries = fixed_digits(step, leaf)
    row = 12_345
    a, b = (leaf.a_before_N[row], leaf.a_N[row]), (leaf.b_before_N[row], leaf.b_N[row])
    assert digits[row].tolist() == [-1, *a, -1, -1, *b, -1]
    assert carries[row].tolist() == [0, leaf.carry_N[row], -1, -1, -1]
