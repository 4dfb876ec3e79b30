"""Pairs for training and for fresh evaluation, straight from the counter-based generator.

A row's pair depends on (seed, step, row) and the data configuration alone. It uses these draws
(``adderlab.task.counter``), numbers taken from a word in the order named:

    0, 1   ten digits of a, ten digits of b
    2      n - 1, n uniform in 1 .. max_digits (used when lengths are "uniform")
    3      the row is a carry pattern if this word < floor(share * 2^59)
    4      what else a carry pattern needs (``adderlab.task.patterns``)

Shapes: S seeds, B rows, J = 10 columns, units first; o = 2 operands.
"""

import torch
from torch import Tensor

from adderlab.task import counter
from adderlab.task.counter import Stream
from adderlab.task.curriculum import DataConfig
from adderlab.task.digits import OPERAND_DIGITS
from adderlab.task.patterns import carry_pairs, columns, pick

_CHUNK = 1 << 18


def sample_pairs(data: DataConfig, seeds_S: Tensor, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """The training pairs of one step: a_SBJ, b_SBJ, uint8 digits on the seeds' device.

    Row r of seed s is the same whatever other seeds, rows or devices take part.
    """
    mix = data.carry_mix
    share = mix.share_at(step) if mix else 0.0
    max_digits = data.curriculum.max_digits(step)
    uniform_lengths = data.curriculum.lengths == "uniform"
    key_S = counter.keys(seeds_S, Stream.TRAIN, step)
    word_NSB = counter.words(key_S, batch_size, 5 if share > 0 else 3 if uniform_lengths else 2)

    digit_JoSB = counter.digits(word_NSB[:2])
    if uniform_lengths:
        length_SB = counter.take(word_NSB[2], max_digits)[0] + 1
        plain_JoSB = digit_JoSB * (columns(length_SB) < length_SB)[:, None]
    else:
        plain_JoSB = digit_JoSB.clone()
        plain_JoSB[max_digits:] = 0
    if mix is None or share == 0.0:
        return _pairs(plain_JoSB.transpose(0, 1))

    threshold = int(share * (1 << counter.WORD_BITS))
    patterned_oJSB = carry_pairs(mix.patterns, digit_JoSB, word_NSB[4], max_digits)
    mixed_SB = (word_NSB[3] < threshold).to(torch.uint8)
    return _pairs(pick(mixed_SB, patterned_oJSB, plain_JoSB.transpose(0, 1)))


def uniform_pairs(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """``count`` uniform ten-digit pairs a_BJ, b_BJ on the CPU, a stream of their own.

    The first pairs do not depend on ``count``.
    """
    digit_oBJ = torch.empty((2, count, OPERAND_DIGITS), dtype=torch.uint8)
    key_S = counter.keys(torch.tensor([seed]), Stream.FRESH, 0)
    for start in range(0, count, _CHUNK):
        rows = min(_CHUNK, count - start)
        word_oSB = counter.words(key_S, rows, 2, first_row=start)
        digit_oBJ[:, start : start + rows] = counter.digits(word_oSB[:, 0]).movedim(0, -1)
    return digit_oBJ[0], digit_oBJ[1]


def _pairs(digit_oJSB: Tensor) -> tuple[Tensor, Tensor]:
    digit_oSBJ = digit_oJSB.movedim(1, -1).contiguous()
    return digit_oSBJ[0], digit_oSBJ[1]
