"""Attention on tables and its derivative: three kernels, each the sole writer of what it computes.

A program has one seed, one head and one answer step (or, for keys and values, one position); its
threads hold pairs, whose queries, keys and values they look up in the tables. No tensor of scores
is ever in memory, as in Dao, arXiv 2307.08691, and nothing is added up by atomics, so a run gives
the same bits every time.

Between kernels, over (S, A, H, B): ``top``, the largest score, ``inverse``, one over the sum of the
exponentials, and ``along`` = cotangent . mixed; over (S, A, H * E, B): ``mixed``, what attention gives,
and ``cotangent`` = d loss / d mixed. Pairs are contiguous everywhere.

Shapes: S seeds, B pairs, P positions, T prompt positions, A answer steps, V vocabulary, H heads, K key
and E value dimension per head; BLOCK pairs are handled together, VOCABULARY is V padded.
"""

import triton
import triton.language as tl

from adderlab.engine.triton.functions import (
    add_by_token,
    add_scaled,
    columns,
    filled,
    inner,
    numbers,
    scaled,
    store_by_token,
)


@triton.jit
def attend(
    tokens, query, key, value, mixed, top, inverse,
    first, B, token_seed,
    A: tl.constexpr, P: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (S * blocks, steps, H). Answer step ``first`` + the second index."""
    blocks = tl.cdiv(B, BLOCK)
    s = (tl.program_id(0) // blocks).to(tl.int64)
    pair_B = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    step, h = first + tl.program_id(1), tl.program_id(2)
    valid_B = pair_B < B
    tokens += s * token_seed + pair_B
    key += s * (P * V * H * K) + h * K
    value += s * (P * V * H * E) + h * E

    asked_B = tl.load(tokens + (T - 1 + step) * B, mask=valid_B, other=0).to(tl.int32)
    row_B = query + ((s * A + step) * V + asked_B) * (H * K) + h * K
    query_BK = numbers(row_B, asked_B < V, K)
    total_B = tl.zeros((BLOCK,), tl.float32)
    top_B = total_B - float("inf")
    mixed_BE = filled(total_B, E)
    for p in range(T + step):
        token_B = tl.load(tokens + p * B, mask=valid_B, other=0).to(tl.int32)
        key_BK = numbers(key + (p * V + token_B) * (H * K), token_B < V, K)
        value_BE = numbers(value + (p * V + token_B) * (H * E), token_B < V, E)
        score_B = inner(query_BK, key_BK, K)
        higher_B = tl.maximum(top_B, score_B)
        shrink_B, weight_B = tl.exp(top_B - higher_B), tl.exp(score_B - higher_B)
        total_B = total_B * shrink_B + weight_B
        mixed_BE = add_scaled(scaled(mixed_BE, shrink_B, E), weight_B, value_BE, E)
        top_B = higher_B

    inverse_B = 1.0 / total_B
    place = ((s * A + step) * H + h) * B + pair_B
    tl.store(top + place, top_B, mask=valid_B)
    tl.store(inverse + place, inverse_B, mask=valid_B)
    mixed += ((s * A + step) * H + h) * E * B + pair_B
    for e in tl.static_range(E):
        tl.store(mixed + e * B, mixed_BE[e] * inverse_B, mask=valid_B)


@triton.jit
def query_gradient(
    tokens, query, key, value, mixed, cotangent, top, inverse, along, grad,
    B, token_seed, splits,
    A: tl.constexpr, P: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr,
    BLOCK: tl.constexpr, VOCABULARY: tl.constexpr,
):  # fmt: skip
    """Grid (S * splits, A, H): split g has every ``splits``-th block of pairs. Writes ``along`` too."""
    part = tl.program_id(0).to(tl.int64)
    s, step, h = part // splits, tl.program_id(1), tl.program_id(2)
    tokens += s * token_seed
    key += s * (P * V * H * K) + h * K
    value += s * (P * V * H * E) + h * E
    row = ((s * A + step) * H + h) * B
    sums_VK = filled(tl.zeros((VOCABULARY,), tl.float32), K)

    for block in range(part % splits, tl.cdiv(B, BLOCK), splits):
        pair_B = block * BLOCK + tl.arange(0, BLOCK)
        valid_B = pair_B < B
        asked_B = tl.load(tokens + (T - 1 + step) * B + pair_B, mask=valid_B, other=0).to(tl.int32)
        row_B = query + ((s * A + step) * V + asked_B) * (H * K) + h * K
        query_BK = numbers(row_B, asked_B < V, K)
        cotangent_BE = columns(cotangent + row * E + pair_B, B, valid_B, E)
        mixed_BE = columns(mixed + row * E + pair_B, B, valid_B, E)
        along_B = inner(cotangent_BE, mixed_BE, E)
        tl.store(along + row + pair_B, along_B, mask=valid_B)
        # An infinite top makes every weight 0 in rows that hold no pair.
        top_B = tl.load(top + row + pair_B, mask=valid_B, other=float("inf"))
        inverse_B = tl.load(inverse + row + pair_B, mask=valid_B, other=0.0)
        slope_BK = filled(tl.zeros((BLOCK,), tl.float32), K)
        for p in range(T + step):
            token_B = tl.load(tokens + p * B + pair_B, mask=valid_B, other=0).to(tl.int32)
            key_BK = numbers(key + (p * V + token_B) * (H * K), token_B < V, K)
            value_BE = numbers(value + (p * V + token_B) * (H * E), token_B < V, E)
            weight_B = tl.exp(inner(query_BK, key_BK, K) - top_B) * inverse_B
            # d loss / d score = weight * (cotangent . value - cotangent . mixed)
            slope_B = weight_B * (inner(cotangent_BE, value_BE, E) - along_B)
            slope_BK = add_scaled(slope_BK, slope_B, key_BK, K)
        sums_VK = add_by_token(sums_VK, asked_B, slope_BK, K, VOCABULARY)

    grad += (part * A + step) * (V * H * K) + h * K
    store_by_token(grad, sums_VK, H * K, K, V, VOCABULARY)


@triton.jit
def key_gradient(
    tokens, query, key, value, cotangent, top, inverse, along, key_grad, value_grad,
    B, token_seed, splits,
    A: tl.constexpr, P: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr,
    BLOCK: tl.constexpr, VOCABULARY: tl.constexpr,
):  # fmt: skip
    """Grid (S * splits, P, H): keys and values of one position, from all steps that see it."""
    part = tl.program_id(0).to(tl.int64)
    s, p, h = part // splits, tl.program_id(1), tl.program_id(2)
    tokens += s * token_seed
    key += s * (P * V * H * K) + p * (V * H * K) + h * K
    value += s * (P * V * H * E) + p * (V * H * E) + h * E
    query += s * (A * V * H * K) + h * K
    key_sums = filled(tl.zeros((VOCABULARY,), tl.float32), K)
    value_sums = filled(tl.zeros((VOCABULARY,), tl.float32), E)

    for block in range(part % splits, tl.cdiv(B, BLOCK), splits):
        pair_B = block * BLOCK + tl.arange(0, BLOCK)
        valid_B = pair_B < B
        token_B = tl.load(tokens + p * B + pair_B, mask=valid_B, other=0).to(tl.int32)
        key_BK = numbers(key + token_B * (H * K), token_B < V, K)
        value_BE = numbers(value + token_B * (H * E), token_B < V, E)
        nothing_B = tl.zeros((BLOCK,), tl.float32)
        key_slope, value_slope = filled(nothing_B, K), filled(nothing_B, E)
        for step in range(tl.maximum(p - (T - 1), 0), A):
            asked_B = tl.load(tokens + (T - 1 + step) * B + pair_B, mask=valid_B, other=0).to(tl.int32)
            query_BK = numbers(query + (step * V + asked_B) * (H * K), asked_B < V, K)
            row = ((s * A + step) * H + h) * B
            cotangent_BE = columns(cotangent + row * E + pair_B, B, valid_B, E)
            top_B = tl.load(top + row + pair_B, mask=valid_B, other=float("inf"))
            inverse_B = tl.load(inverse + row + pair_B, mask=valid_B, other=0.0)
            along_B = tl.load(along + row + pair_B, mask=valid_B, other=0.0)
            weight_B = tl.exp(inner(query_BK, key_BK, K) - top_B) * inverse_B
            slope_B = weight_B * (inner(cotangent_BE, value_BE, E) - along_B)
            key_slope = add_scaled(key_slope, slope_B, query_BK, K)
            value_slope = add_scaled(value_slope, weight_B, cotangent_BE, E)
        key_sums = add_by_token(key_sums, token_B, key_slope, K, VOCABULARY)
        value_sums = add_by_token(value_sums, token_B, value_slope, E, VOCABULARY)

    key_grad += (part * P + p) * (V * H * K) + h * K
    value_grad += (part * P + p) * (V * H * E) + h * E
    store_by_token(key_grad, key_sums, H * K, K, V, VOCABULARY)
    store_by_token(value_grad, value_sums, H * E, E, V, VOCABULARY)
