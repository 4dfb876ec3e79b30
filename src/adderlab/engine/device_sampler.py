"""Training pairs drawn where the seeds are, from a step that the device knows only as numbers in its
memory: equal bit for bit to ``task.sampling``, but the host need not name the step, so the same
recorded kernels draw every step.

Shapes: C steps, S seeds, B pairs, J = 10 columns, units first; o = 2 operands; P input positions,
A answer steps. The three numbers of a step: its site (``task.counter``), the longest operand, and the
word below which a row is a carry pattern.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from adderlab.task import counter
from adderlab.task.counter import Stream
from adderlab.task.curriculum import DataConfig
from adderlab.task.layouts import Layout
from adderlab.task.patterns import carry_pairs, columns, pick


def step_numbers(data: DataConfig, steps: Iterable[int]) -> Tensor:
    """number_C3 of the steps, int64 on the CPU."""
    mix = data.carry_mix
    rows = [
        (
            counter.site(Stream.TRAIN, step),
            data.curriculum.max_digits(step),
            int((mix.share_at(step) if mix else 0.0) * (1 << counter.WORD_BITS)),
        )
        for step in steps
    ]
    return torch.tensor(rows, dtype=torch.int64)


def sample(
    data: DataConfig, layout: Layout, seeds_S: Tensor, number_3: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """(tokens_SBP, targets_SBA), uint8, of the step with these numbers."""
    mix, uniform_lengths = data.carry_mix, data.curriculum.lengths == "uniform"
    site, max_digits, threshold = number_3.unbind()
    key_S = counter.keys_at(seeds_S, site)
    word_NSB = counter.words(key_S, batch_size, 5 if mix else 3 if uniform_lengths else 2)
    digit_JoSB = counter.digits(word_NSB[:2])
    length_SB = max_digits.expand(word_NSB.shape[1:])
    if uniform_lengths:
        length_SB = counter.take(word_NSB[2], max_digits)[0] + 1
    digit_oJSB = (digit_JoSB * (columns(length_SB) < length_SB)[:, None]).transpose(0, 1)
    if mix:
        patterned_oJSB = carry_pairs(mix.patterns, digit_JoSB, word_NSB[4], max_digits)
        mixed_SB = (word_NSB[3] < threshold).to(torch.uint8)
        digit_oJSB = pick(mixed_SB, patterned_oJSB, digit_oJSB)
    a_SBJ, b_SBJ = digit_oJSB.movedim(1, -1).contiguous()
    return layout.encode(a_SBJ, b_SBJ)
