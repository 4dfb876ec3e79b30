"""The Triton engine: one CUDA kernel a part of the work, behind the ``Engine`` interface.

Shapes: S seeds, B pairs, P input positions, T prompt positions, A answer steps, V vocabulary,
H heads, K key and E value dimension, N = H * E, W numbers of all weight tables and the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import (
    Compiled,
    Descent,
    Function,
    Sampler,
    Stepper,
)
from adderlab.engine.device_steps import DeviceStepper, Eager
from adderlab.engine.triton import with_coordinates, without_coordinates
from adderlab.engine.triton.kernels import attend, head, key_gradient, query_gradient
from adderlab.models.head_program import standard_head
from adderlab.models.tables import Tables, in_roles
from adderlab.task.addition import Layout
from adderlab.task.sampling import DataConfig

BLOCK = 128
"""Pairs of one program, one to a thread."""

ROWS = 32
"""Pairs of one program after attention, where a row's numbers are spread over threads."""

PROGRAMS = 512
"""So many programs keep a large GPU busy; fewer seeds than that are split by pairs."""

CHUNK_BYTES = 1 << 28
"""Memory between attention and head when no gradient is asked for; more pairs are done in turns."""

WEIGHTS = (
    *("attn_out", "norm2_weight", "norm2_bias", "fc1", "fc1_bias", "gate", "fc2", "fc2_bias"),
    *("norm_f_weight", "norm_f_bias", "unembed"),
)
"""Tables that every answer step reads: each program adds to them, and the parts are summed."""


class TritonEngine:
    """See ``engine.base.Engine``. float32 tables on a CUDA device (or the CPU in Triton's
    interpreter), tokens uint8.

    A token outside the vocabulary gives a loss that is no number: to ask for it would mean to wait
    for the device in every step.
    """

    name = "triton"

    def compile(
        self,
        function: Function,
        examples: Sequence[Tensor],
        key: str | None = None,
        *,
        lean: bool = False,
    ) -> Compiled | None:
        return Eager(function, examples)

    def descent(self) -> Descent | None:
        return None

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler | None:
        return None

    def stepper(
        self, map: Compiled, vjp: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        return DeviceStepper(self, map, vjp, form, data, layout)

    def loss_and_grad(
        self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, Tables]:
        plain = with_coordinates(tables)
        loss_S, grads = self._loss_and_grad(plain, tokens_SBP, targets_SBA)
        return loss_S, grads if plain is tables else without_coordinates(grads, tables)

    def _loss_and_grad(
        self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, Tables]:
        call = _Call(tables, tokens_SBP, targets_SBA)
        form, S, A = tables.form, call.seeds, call.A
        splits = max(1, min(-(-call.B // BLOCK), PROGRAMS // (S * A)))
        mixed, top, inverse = call.attend(0, A)
        cotangent, along = torch.empty_like(mixed), torch.empty_like(top)
        grads = {
            name: tables.value.new_empty(S * splits, *call.by_role[name].shape[1:])
            for name in ("query", "key", "value", "residual")
        }
        sizes = {name: call.by_role[name][0].numel() for name in WEIGHTS if name in call.by_role}
        starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=1), strict=False))
        width = 1 + sum(sizes.values())
        parts_SGW = tables.value.new_empty(S, splits * A, width)
        places = {name: parts_SGW[..., start:] for name, start in starts.items()}
        call.head(
            "gradient", mixed, first=0, steps=A, splits=splits, weights=width, cotangent=cotangent,
            loss=parts_SGW, grads=places | {"residual": grads["residual"]},
        )  # fmt: skip
        dims = call.attention_dims() | {"VOCABULARY": call.Vp, "BLOCK": BLOCK}
        looked_up = (call.tokens, *call.looked_up)
        query_gradient[(S * splits, A, form.heads)](
            *looked_up, mixed, cotangent, top, inverse, along, grads["query"],
            call.B, call.token_seed, splits, **dims,
        )  # fmt: skip
        key_gradient[(S * splits, call.P, form.heads)](
            *looked_up, cotangent, top, inverse, along, grads["key"], grads["value"],
            call.B, call.token_seed, splits, **dims,
        )  # fmt: skip
        if splits > 1:
            grads = {name: grad.unflatten(0, (S, splits)).sum(1) for name, grad in grads.items()}
        summed_SW = parts_SGW.sum(1)
        for name, start in starts.items():
            like = call.by_role[name]
            grads[name] = summed_SW[:, start : start + sizes[name]].reshape(like.shape)
        ordered = iter([grads[name] for name in call.by_role])
        return summed_SW[:, 0], tables.map(lambda _: next(ordered))

    def margins(self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        tables, parts = with_coordinates(tables), []
        size = _chunk(tables)
        for tokens, targets in zip(tokens_SBP.split(size, 1), targets_SBA.split(size, 1), strict=True):
            call = _Call(tables, tokens, targets)
            margin_SBA = tables.value.new_empty(call.seeds, call.B, call.A)
            mixed, _, _ = call.attend(0, call.A)
            call.head("margins", mixed, first=0, steps=call.A, splits=call.row_blocks, margin=margin_SBA)
            parts.append(margin_SBA)
        return torch.cat(parts, 1)

    def decode(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        tables = with_coordinates(tables)
        return torch.cat(
            [self._decode_chunk(tables, part) for part in prompt_SBT.split(_chunk(tables), 1)], 1
        )

    def _decode_chunk(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        S, layout = tables.num_seeds, tables.form.layout
        B, T, A = prompt_SBT.shape[1], layout.num_prompt, layout.num_answers
        tokens_SPB = prompt_SBT.new_zeros(S, T + A, B)
        tokens_SPB[:, :T] = prompt_SBT.transpose(1, 2)
        answers_SBA = prompt_SBT.new_empty(S, B, A)
        call = _Call(tables, tokens_SPB.transpose(1, 2), None)
        for step in range(A):
            mixed, _, _ = call.attend(step, 1)
            call.head(
                "answers", mixed, first=step, steps=1, splits=call.row_blocks,
                answers=answers_SBA, next_tokens=tokens_SPB,
            )  # fmt: skip
        return answers_SBA


class _Call:
    """Tables and tokens as the kernels read them."""

    def __init__(self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor | None) -> None:
        assert tables.value.dtype == torch.float32, tables.value.dtype
        assert tokens_SBP.shape[0] in (1, tables.num_seeds) and tokens_SBP.shape[1] > 0
        form = tables.form
        self.tables = tables.map(Tensor.contiguous)
        self.by_role = in_roles(form, dict(self.tables.items()))
        self.looked_up = tuple(self.by_role[name] for name in ("query", "key", "value"))
        self.seeds, self.B = tables.num_seeds, tokens_SBP.shape[1]
        self.A, self.P, self.T = (
            form.layout.num_answers,
            form.layout.num_positions,
            form.layout.num_prompt,
        )
        self.Vp = _padded(form.layout.vocab_size)
        self.tokens, self.token_seed = _pairs_last(tokens_SBP)
        self.targets, self.target_seed = (None, 0) if targets_SBA is None else _pairs_last(targets_SBA)
        self.row_blocks = -(-self.B // ROWS)
        N = form.heads * form.value_dim
        self._mixed = self.tables.value.new_empty(self.seeds, self.A, N, self.B)
        self._top = self.tables.value.new_empty(self.seeds, self.A, form.heads, self.B)
        self._inverse = torch.empty_like(self._top)

    def attention_dims(self) -> dict[str, int]:
        form = self.tables.form
        return {
            "A": self.A,
            "P": self.P,
            "T": self.T,
            "V": form.layout.vocab_size,
            "H": form.heads,
            "K": form.key_dim,
            "E": form.value_dim,
        }

    def attend(self, first: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """(mixed_SANB, top_SAHB, inverse_SAHB) of steps first ... first + steps - 1."""
        grid = (self.seeds * -(-self.B // BLOCK), steps, self.tables.form.heads)
        between = (self._mixed, self._top, self._inverse)
        attend[grid](
            self.tokens, *self.looked_up, *between, first, self.B, self.token_seed,
            BLOCK=BLOCK, **self.attention_dims(),
        )  # fmt: skip
        return between

    def head(
        self,
        goal: str,
        mixed: Tensor,
        *,
        first: int,
        steps: int,
        splits: int,
        weights: int = 0,
        grads: dict[str, Tensor] | None = None,
        **results: Tensor,
    ) -> None:
        """What ``goal`` asks for of these steps, into ``results`` and ``grads``."""
        form, standard = self.tables.form, standard_head(self.tables.form.program)
        assert standard is not None, "why_not refuses other heads"
        names = ("residual", *WEIGHTS)
        sizes = {"N": form.heads * form.value_dim, "D": form.width, "F": standard.hidden}
        padded = {f"{name}p": _padded(size) for name, size in sizes.items()}
        arguments: dict[str, Any] = {
            **{
                name: results.get(name)
                for name in ("cotangent", "loss", "margin", "answers", "next_tokens")
            },
            **{name: self.by_role.get(name) for name in names},
            **{f"g_{name}": (grads or {}).get(name) for name in names},
        }
        head[(self.seeds * splits, steps)](
            tokens=self.tokens, targets=self.targets, mixed=mixed, first=first, B=self.B,
            token_seed=self.token_seed, target_seed=self.target_seed, splits=splits, weights=weights,
            eps2=standard.norm2.eps, eps_f=standard.norm_f.eps, A=self.A, T=self.T,
            V=form.layout.vocab_size, Vp=self.Vp, NORM2=standard.norm2.kind, NORM_F=standard.norm_f.kind,
            ACTIVATION=standard.activation, GOAL=goal, BLOCK=ROWS, **sizes, **padded, **arguments,
        )  # fmt: skip


def _padded(size: int) -> int:
    """The power of two, at least 16, that holds ``size``."""
    return max(16, 1 << (size - 1).bit_length())


def _pairs_last(tokens_SBP: Tensor) -> tuple[Tensor, int]:
    """(S, P, B) contiguous, and the distance between seeds, 0 where all see the same pairs."""
    assert tokens_SBP.dtype == torch.uint8, tokens_SBP.dtype
    if tokens_SBP.stride(0) == 0:
        tokens_SBP = tokens_SBP[:1]
    tokens_SPB = tokens_SBP.transpose(1, 2).contiguous()
    return tokens_SPB, 0 if len(tokens_SPB) == 1 else tokens_SPB.stride(0)


def _chunk(tables: Tables) -> int:
    """Pairs at once, so that what lies between attention and head stays in ``CHUNK_BYTES``."""
    form = tables.form
    each = 4 * tables.num_seeds * form.layout.num_answers * form.heads * (form.value_dim + 2)
    return max(BLOCK, CHUNK_BYTES // each)
