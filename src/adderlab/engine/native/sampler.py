"""Training pairs as tokens, drawn in C++: the twin of ``task.sampling``, equal bit for bit.

Shapes: S seeds, B pairs, P input positions, A answer steps.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from adderlab.engine.native.build import load_library
from adderlab.task import counter
from adderlab.task.counter import Stream
from adderlab.task.curriculum import PATTERNS, DataConfig
from adderlab.task.layouts import Layout

SOURCE = Path(__file__).with_name("sampler.cpp")


class SamplingRequest(ctypes.Structure):
    """Mirrors ``Sampling`` in sampling.hpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "batch", "max_digits")],
        *[(name, ctypes.c_int32) for name in ("uniform_lengths", "threads")],
        *[(name, ctypes.c_int32) for name in ("positions", "prompt", "answers", "end_token")],
        ("threshold", ctypes.c_uint64),
        ("pattern_count", ctypes.c_int32),
        ("patterns", ctypes.c_int32 * 5),
        ("a_position", ctypes.c_int32 * 10),
        ("b_position", ctypes.c_int32 * 10),
        *[(name, ctypes.c_void_p) for name in ("key", "blank", "tokens", "targets")],
    ]


@cache
def sampler_library() -> ctypes.CDLL:
    return load_library(SOURCE)


class NativeSampler:
    """The training pairs of one data configuration and layout, as tokens: equal bit for bit to
    ``layout.encode(*sample_pairs(...))``."""

    def __init__(self, data: DataConfig, layout: Layout, threads: int = 1) -> None:
        self.data, self.layout, self.threads = data, layout, threads
        zeros = torch.zeros(1, 10, dtype=torch.uint8)
        self._blank = layout.encode_prompt(zeros, zeros)[0].contiguous()
        self._request = SamplingRequest(
            uniform_lengths=data.curriculum.lengths == "uniform",
            threads=threads,
            positions=layout.num_positions,
            prompt=layout.num_prompt,
            answers=layout.num_answers,
            end_token=-1 if layout.end_token is None else layout.end_token,
            a_position=(ctypes.c_int32 * 10)(*layout.a_positions),
            b_position=(ctypes.c_int32 * 10)(*layout.b_positions),
            blank=self._blank.data_ptr(),
        )
        if data.carry_mix is not None:
            names = data.carry_mix.patterns
            self._request.pattern_count = len(names)
            self._request.patterns[: len(names)] = [PATTERNS.index(name) for name in names]

    def threshold(self, step: int) -> int:
        """Rows whose word is smaller are carry patterns."""
        mix = self.data.carry_mix
        return int((mix.share_at(step) if mix else 0.0) * (1 << counter.WORD_BITS))

    def request(self, seeds: int, batch_size: int) -> SamplingRequest:
        """What does not change from step to step."""
        request = SamplingRequest.from_buffer_copy(self._request)
        request.seeds, request.batch = seeds, batch_size
        return request

    def __call__(self, seeds_S: Tensor, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """(tokens_SBP, targets_SBA), uint8, of one step."""
        S, layout = len(seeds_S), self.layout
        tokens_SBP = torch.empty((S, batch_size, layout.num_positions), dtype=torch.uint8)
        targets_SBA = torch.empty((S, batch_size, layout.num_answers), dtype=torch.uint8)
        key_S = counter.keys(seeds_S, Stream.TRAIN, step)
        request = self.request(S, batch_size)
        request.max_digits = self.data.curriculum.max_digits(step)
        request.threshold = self.threshold(step)
        request.key = key_S.data_ptr()
        request.tokens, request.targets = tokens_SBP.data_ptr(), targets_SBA.data_ptr()
        sampler_library().adderlab_sample(ctypes.byref(request))
        return tokens_SBP, targets_SBA
