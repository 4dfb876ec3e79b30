"""The torch backend: loss, gradient, margins and decoding on tables, on any device.

Only the A answer queries are computed; queries, keys and values are looked up in the tables. The
batch is the last, contiguous axis, so every operation runs along it at full vector width.

On the CPU each seed runs the same single-threaded program, alone, and seeds are spread over
threads: a seed's bits depend neither on its neighbours nor on the number of threads. On other
devices all seeds go through one batched program.

Shapes: S seeds, B pairs, P positions, T prompt positions, A answer steps, V vocabulary, H heads,
K key and E value dimension per head, D and R width of the residual, N = A * B query rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from adderlab.engine.base import Compiled, Descent, Function, Sampler, Stepper
from adderlab.engine.device_steps import DeviceStepper, Eager
from adderlab.models.head_program import FUNCTIONS, evaluate
from adderlab.models.tables import Tables
from adderlab.task.addition import Layout
from adderlab.task.sampling import DataConfig

T = TypeVar("T")

DECODE_CHUNK = 4096
"""Pairs decoded at once: large enough to amortise calls, small enough to stay in cache."""


class TorchEngine:
    """See ``engine.base.Engine``. Works in the tables' own dtype and device."""

    name = "torch"

    def __init__(self, threads: int = 1, *, whole_steps: bool = False) -> None:
        """``threads``: how many seeds run at once on the CPU; no effect on any result.
        ``whole_steps``: take steps as ``device_steps`` does, for devices other than the CPU."""
        self.whole_steps = whole_steps
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def loss_and_grad(
        self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor
    ) -> tuple[Tensor, Tables]:
        parts = self._each(tables, _loss_and_grad, tokens_SBP, targets_SBA)
        losses, grads = zip(*parts, strict=True)
        return torch.cat(losses), _concatenate(grads)

    def margins(self, tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
        return torch.cat(self._each(tables, _margins, tokens_SBP, targets_SBA))

    def decode(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        return torch.cat(self._each(tables, _decode, prompt_SBT))

    def compile(
        self,
        function: Function,
        examples: Sequence[Tensor],
        key: str | None = None,
        *,
        lean: bool = False,
    ) -> Compiled | None:
        return Eager(function, examples) if self.whole_steps else None

    def descent(self) -> Descent | None:
        return None

    def sampler(self, data: DataConfig, layout: Layout) -> Sampler | None:
        return None

    def stepper(
        self, map: Compiled, vjp: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        return DeviceStepper(self, map, vjp, form, data, layout) if self.whole_steps else None

    def _each(self, tables: Tables, program: Callable[..., T], *tokens: Tensor) -> list[T]:
        """Run ``program`` on all seeds at once off the CPU, seed by seed on it."""
        S = tables.num_seeds
        if tables.value.device.type != "cpu":
            return [program(tables, *(t.expand(S, -1, -1) for t in tokens))]

        def run(s: int) -> T:
            own = [t if t.shape[0] == 1 else t[s : s + 1] for t in tokens]
            return program(tables.seeds(s, s + 1), *own)

        return list(self._pool.map(run, range(S)))


def _concatenate(parts: tuple[Tables, ...]) -> Tables:
    columns = [dict(part.items()) for part in parts]
    merged = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
    names = iter(merged)
    return parts[0].map(lambda _: merged[next(names)])


def _loss_and_grad(tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> tuple[Tensor, Tables]:
    with torch.enable_grad():
        leaves = tables.map(lambda tensor: tensor.detach().requires_grad_())
        logits_SVAB = _teacher_forced(leaves, tokens_SBP)
        target_S1AB = targets_SBA.transpose(1, 2).long()[:, None]
        loss_S = -logits_SVAB.log_softmax(1).gather(1, target_S1AB).mean((1, 2, 3))
        # A program need not read all of its tables.
        grads = torch.autograd.grad(
            loss_S.sum(),
            [tensor for _, tensor in leaves.items()],
            allow_unused=True,
            materialize_grads=True,
        )
    values = iter(grads)
    return loss_S.detach(), leaves.map(lambda _: next(values))


@torch.no_grad()
def _margins(tables: Tables, tokens_SBP: Tensor, targets_SBA: Tensor) -> Tensor:
    parts = []
    for tokens, targets in zip(
        tokens_SBP.split(DECODE_CHUNK, 1), targets_SBA.split(DECODE_CHUNK, 1), strict=True
    ):
        logits_SVAB = _teacher_forced(tables, tokens)
        target_S1AB = targets.transpose(1, 2).long()[:, None]
        right_SAB = logits_SVAB.gather(1, target_S1AB).squeeze(1)
        other_SAB = logits_SVAB.scatter(1, target_S1AB, float("-inf")).amax(1)
        parts.append((right_SAB - other_SAB).transpose(1, 2))
    return torch.cat(parts, 1)


@torch.no_grad()
def _decode(tables: Tables, prompt_SBT: Tensor) -> Tensor:
    return torch.cat([_decode_chunk(tables, chunk) for chunk in prompt_SBT.split(DECODE_CHUNK, 1)], 1)


def _decode_chunk(tables: Tables, prompt_SBT: Tensor) -> Tensor:
    """Keys and values of a position are looked up once, when its token becomes known."""
    layout = tables.form.layout
    T = layout.num_prompt
    known_STB = prompt_SBT.transpose(1, 2)
    key_SKPB, value_SEPB = _look_up_keys(tables, known_STB, slice(0, T))
    token_S1B, answers = known_STB[:, T - 1 :], []
    for step in range(layout.num_answers):
        if step:
            key, value = _look_up_keys(tables, token_S1B, slice(T - 1 + step, T + step))
            key_SKPB, value_SEPB = torch.cat([key_SKPB, key], 2), torch.cat([value_SEPB, value], 2)
        query_SK1B, residual_SD1B = _look_up_queries(tables, token_S1B, slice(step, step + 1))
        if step and tables.score is not None:
            known_STB = torch.cat([known_STB, token_S1B], 1)
        extra = _look_up_scores(tables, token_S1B, known_STB, slice(step, step + 1))
        mixed_SE1B = _mix(tables, query_SK1B, key_SKPB, value_SEPB, None, extra, slice(step, step + 1))
        token_S1B = _head(tables, mixed_SE1B, residual_SD1B).argmax(1).to(torch.uint8)
        answers.append(token_S1B)
    return torch.cat(answers, 1).transpose(1, 2)


def _teacher_forced(tables: Tables, tokens_SBP: Tensor) -> Tensor:
    """Logits (S, V, A, B) of every answer step, given the right earlier digits."""
    layout = tables.form.layout
    tokens_SPB = tokens_SBP.transpose(1, 2)
    key_SKPB, value_SEPB = _look_up_keys(tables, tokens_SPB, slice(None))
    query_tokens_SAB = tokens_SPB[:, layout.query_positions[0] :]
    query_SKAB, residual_SDAB = _look_up_queries(tables, query_tokens_SAB, slice(None))
    hidden = _future_mask(layout, tables.value.dtype, tables.value.device)
    extra = _look_up_scores(tables, query_tokens_SAB, tokens_SPB, slice(None))
    mixed_SEAB = _mix(tables, query_SKAB, key_SKPB, value_SEPB, hidden, extra, slice(None))
    return _head(tables, mixed_SEAB, residual_SDAB)


@cache
def _future_mask(layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(A, P, 1): 0 where step i may look, -inf beyond its query position."""
    position_P = torch.arange(layout.num_positions, device=device)
    first, last = layout.query_positions[0], layout.query_positions[-1]
    last_A = torch.arange(first, last + 1, device=device)
    mask_AP = torch.zeros(len(last_A), len(position_P), dtype=dtype, device=device)
    return mask_AP.masked_fill(position_P > last_A[:, None], float("-inf"))[:, :, None]


def _one_hot(tokens: Tensor, V: int, dtype: torch.dtype) -> Tensor:
    """(S, R, B) -> (S, R, V, B). Products with it look rows up, and its transpose sums gradients."""
    symbols_V1 = torch.arange(V, dtype=tokens.dtype, device=tokens.device)[:, None]
    return (tokens[:, :, None] == symbols_V1).to(dtype)


def _look_up(tables_SRVN: list[Tensor], tokens_SRB: Tensor) -> list[Tensor]:
    """Rows of several tables at the tokens of R positions: each (S, N, R, B)."""
    joined_SRVN = torch.cat([table.flatten(3) for table in tables_SRVN], 3)
    one_hot_SRVB = _one_hot(tokens_SRB, joined_SRVN.shape[2], joined_SRVN.dtype)
    found_SRNB = joined_SRVN.transpose(2, 3) @ one_hot_SRVB
    sizes = [table.flatten(3).shape[3] for table in tables_SRVN]
    return [found.transpose(1, 2) for found in found_SRNB.split(sizes, 2)]


def _look_up_keys(tables: Tables, tokens_SRB: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    key, value = _look_up([tables.key[:, rows], tables.value[:, rows]], tokens_SRB)
    return key, value


def _look_up_queries(tables: Tables, tokens_SRB: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    query, residual = _look_up([tables.query[:, rows], tables.residual[:, rows]], tokens_SRB)
    return query, residual


def _look_up_scores(
    tables: Tables, query_tokens_SAB: Tensor, tokens_SPB: Tensor, rows: slice
) -> list[tuple[Tensor | None, Tensor | None]]:
    """For each head (score_SAPB, sink_SAB): what its scores are beside query times key, and the score
    of the key without a value."""
    H = tables.form.heads
    scores: list[Tensor | None] = [None] * H
    sinks: list[Tensor | None] = [None] * H
    if tables.score is not None:
        scores = list(_extra_scores(tables, tables.score[:, rows], query_tokens_SAB, tokens_SPB))
    if tables.sink is not None:
        (sink_SHAB,) = _look_up([tables.sink[:, rows]], query_tokens_SAB)
        sinks = list(sink_SHAB.unbind(1))
    return list(zip(scores, sinks, strict=True))


def _extra_scores(
    tables: Tables, score: Tensor, query_tokens_SAB: Tensor, tokens_SPB: Tensor
) -> Iterator[Tensor]:
    """score_SAPB of each head, from the rows of some steps."""
    (P, B), V, H = tokens_SPB.shape[1:], tables.form.layout.vocab_size, tables.form.heads
    if score.shape[2] == score.shape[5] == 1:
        for h in range(H):
            yield score[:, :, 0, h, :P].expand(-1, -1, -1, B)
        return
    pair_SAPB = query_tokens_SAB.long()[:, :, None] * V + tokens_SPB.long()[:, None]
    every_SAVHPV = score[..., :P, :].expand(-1, -1, V, -1, -1, V)
    table_SAHPN = every_SAVHPV.permute(0, 1, 3, 4, 2, 5).flatten(4)
    pair_SAPB = pair_SAPB.expand(len(table_SAHPN), -1, -1, -1)
    for h in range(H):
        yield table_SAHPN[:, :, h].gather(3, pair_SAPB)


def _mix(
    tables: Tables,
    query_SKAB: Tensor,
    key_SKPB: Tensor,
    value_SEPB: Tensor,
    hidden_AP1: Tensor | None,
    extra: list[tuple[Tensor | None, Tensor | None]],
    rows: slice,
) -> Tensor:
    """``_attend`` of these answer steps. Scores that are a function of queries times keys are computed
    here, by operations whose derivatives PyTorch knows."""
    if tables.score_scale is not None:
        curve, H = FUNCTIONS[str(tables.form.score_function)], tables.form.heads
        heads = zip(query_SKAB.chunk(H, 1), key_SKPB.chunk(H, 1), extra, strict=True)
        curved: list[tuple[Tensor | None, Tensor | None]] = []
        for h, (q, k, (score_SAPB, sink_SAB)) in enumerate(heads):
            product_SAPB = (q[:, :, :, None] * k[:, :, None]).sum(1)
            own_SAPB = curve(product_SAPB) * tables.score_scale[:, rows, h, None, None]
            curved.append((own_SAPB if score_SAPB is None else own_SAPB + score_SAPB, sink_SAB))
        query_SKAB, key_SKPB, extra = query_SKAB[:, :0], key_SKPB[:, :0], curved
    return _attend(query_SKAB, key_SKPB, value_SEPB, hidden_AP1, extra)


def _attend(
    query_SKAB: Tensor,
    key_SKPB: Tensor,
    value_SEPB: Tensor,
    hidden_AP1: Tensor | None,
    extra: list[tuple[Tensor | None, Tensor | None]],
) -> Tensor:
    """softmax(q k + score) v for each head; feature axes hold the heads one after another. ``extra``:
    see ``_look_up_scores``."""
    H = len(extra)
    K, E = query_SKAB.shape[1] // H, value_SEPB.shape[1] // H
    mixed = []
    for h, (score_SAPB, sink_SAB) in enumerate(extra):
        of = slice(h * K, (h + 1) * K)
        q, k, v = query_SKAB[:, of], key_SKPB[:, of], value_SEPB[:, h * E : (h + 1) * E]
        mixed.append(_Attention.apply(q, k, v, hidden_AP1, score_SAPB, sink_SAB))
    return torch.cat(mixed, 1)


class _Attention(torch.autograd.Function):
    """One head. The derivative is written out: it needs two passes fewer than autograd's."""

    @staticmethod
    def forward(
        ctx: Any,
        query_SKAB: Tensor,
        key_SKPB: Tensor,
        value_SEPB: Tensor,
        hidden_AP1: Tensor | None,
        extra_SAPB: Tensor | None,
        sink_SAB: Tensor | None,
    ) -> Tensor:
        if query_SKAB.shape[1] == 0:
            assert extra_SAPB is not None, "scores are queries times keys, or a table of their own"
            score_SAPB = extra_SAPB.clone()
        else:
            score_SAPB = query_SKAB[:, 0, :, None] * key_SKPB[:, 0, None]
            for k in range(1, query_SKAB.shape[1]):
                score_SAPB += query_SKAB[:, k, :, None] * key_SKPB[:, k, None]
            if extra_SAPB is not None:
                score_SAPB += extra_SAPB
        if hidden_AP1 is not None:
            score_SAPB += hidden_AP1
        top_SA1B = score_SAPB.amax(2, keepdim=True)
        if sink_SAB is not None:
            top_SA1B = torch.maximum(top_SA1B, sink_SAB[:, :, None])
        weight_SAPB = score_SAPB.sub_(top_SA1B).exp_()
        total_SA1B = weight_SAPB.sum(2, keepdim=True)
        sink_weight_SAB = None
        if sink_SAB is not None:
            sink_SA1B = (sink_SAB[:, :, None] - top_SA1B).exp_()
            total_SA1B += sink_SA1B
            sink_weight_SAB = (sink_SA1B / total_SA1B)[:, :, 0]
        weight_SAPB /= total_SA1B
        mixed_SEAB = torch.stack(
            [(weight_SAPB * value_SEPB[:, e, None]).sum(2) for e in range(value_SEPB.shape[1])], 1
        )
        ctx.has_extra = extra_SAPB is not None
        ctx.save_for_backward(query_SKAB, key_SKPB, value_SEPB, weight_SAPB, mixed_SEAB, sink_weight_SAB)
        return mixed_SEAB

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_SEAB,) = grads
        query_SKAB, key_SKPB, value_SEPB, weight_SAPB, mixed_SEAB, sink_weight_SAB = ctx.saved_tensors
        grad_value = torch.stack(
            [(weight_SAPB * grad_SEAB[:, e, :, None]).sum(1) for e in range(value_SEPB.shape[1])], 1
        )
        # d loss / d score = weight * (grad . value - grad . mixed)
        along_SAB = -(grad_SEAB * mixed_SEAB).sum(1)
        cotangent_SAPB = along_SAB[:, :, None]
        for e in range(value_SEPB.shape[1]):
            cotangent_SAPB = cotangent_SAPB + grad_SEAB[:, e, :, None] * value_SEPB[:, e, None]
        cotangent_SAPB *= weight_SAPB
        features = range(query_SKAB.shape[1])
        if len(features) == 0:
            grad_query, grad_key = torch.zeros_like(query_SKAB), torch.zeros_like(key_SKPB)
        else:
            grad_query = torch.stack(
                [(cotangent_SAPB * key_SKPB[:, k, None]).sum(2) for k in features], 1
            )
            grad_key = torch.stack(
                [(cotangent_SAPB * query_SKAB[:, k, :, None]).sum(1) for k in features], 1
            )
        grad_score = cotangent_SAPB if ctx.has_extra else None
        grad_sink = None if sink_weight_SAB is None else sink_weight_SAB * along_SAB
        return grad_query, grad_key, grad_value, None, grad_score, grad_sink


def _head(tables: Tables, mixed_SEAB: Tensor, residual_SDAB: Tensor) -> Tensor:
    """From the attention's mix to logits (S, V, A, B)."""
    S, _, A, B = mixed_SEAB.shape
    mixed_SEN, row_SRN = (x.reshape(S, -1, A * B) for x in (mixed_SEAB, residual_SDAB))
    return evaluate(tables.form.program, tables.head, mixed_SEN, row_SRN).reshape(S, -1, A, B)
