"""The Triton kernels: attention and its derivative, and all that happens after attention in one kernel.

A program has one seed and one answer step (or, for keys and values, one position); in the attention's
also one head. In these, rows are pairs, one to a thread, and a tuple holds one number per feature;
queries, keys and values are looked up in the tables. No tensor of scores is ever in memory, as in Dao,
arXiv 2307.08691, and nothing is added up by atomics, so a run gives the same bits every time. Each of
the three kernels of attention is the sole writer of what it computes.

Between kernels, over (S, A, H, B): ``top``, the largest score, ``inverse``, one over the sum of the
exponentials, and ``along`` = cotangent . mixed; over (S, A, H * E, B): ``mixed``, what attention gives,
and ``cotangent`` = d loss / d mixed. Pairs are contiguous everywhere.

After attention one kernel goes from the mix to logits, and back. Its rows are pairs too; sizes are
padded to powers of two, at least 16 (what ``tl.dot`` takes), with zeros.

Shapes: S seeds, B pairs, P positions, T prompt positions, A answer steps, V vocabulary, H heads, K key
and E value dimension per head, N = H * E (in small functions: N features), D width, F hidden units;
BLOCK pairs are handled together, VOCABULARY is V padded. Single letters of other padded sizes: R rows
(pairs of a block), and Vp, Np, Dp, Fp.
"""

# ruff: noqa: RUF005 (Triton adds tuples; it has no unpacking)
import triton
import triton.language as tl


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


# After attention.


@triton.jit
def head(
    tokens, targets, mixed, cotangent, loss, margin, answers, next_tokens,
    residual, attn_out, norm2_weight, norm2_bias, fc1, fc1_bias, gate, fc2, fc2_bias,
    norm_f_weight, norm_f_bias, unembed,
    g_residual, g_attn_out, g_norm2_weight, g_norm2_bias, g_fc1, g_fc1_bias, g_gate, g_fc2,
    g_fc2_bias, g_norm_f_weight, g_norm_f_bias, g_unembed,
    first, B, token_seed, target_seed, splits, weights, eps2, eps_f,
    A: tl.constexpr, T: tl.constexpr, V: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    F: tl.constexpr, Vp: tl.constexpr, Np: tl.constexpr, Dp: tl.constexpr, Fp: tl.constexpr,
    NORM2: tl.constexpr, NORM_F: tl.constexpr, ACTIVATION: tl.constexpr, GOAL: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (S * splits, steps); split g has every ``splits``-th block of pairs.

    GOAL "gradient": loss, ``cotangent`` and the gradients of this step, the weights' ``weights`` numbers
    apart. "margins": ``margin``. "answers": the best token, also into the tokens of the next step.
    """
    part = tl.program_id(0).to(tl.int64)
    s, step = part // splits, first + tl.program_id(1)
    v, n, d = tl.arange(0, Vp), tl.arange(0, Np), tl.arange(0, Dp)
    inside_D, inside_V = (d < D)[None, :], (v < V)[None, :]
    attn_out_ND = matrix(attn_out + s * (N * D), N, D, Np, Dp)
    fc1_DF = matrix(fc1 + s * (D * F), D, F, Dp, Fp)
    fc2_FD = matrix(fc2 + s * (F * D), F, D, Fp, Dp)
    unembed_DV = matrix(unembed + s * (D * V), D, V, Dp, Vp)
    tokens += s * token_seed + (T - 1 + step) * B
    residual += (s * A + step) * (V * D)
    mixed += (s * A + step) * N * B

    if GOAL != "answers":
        targets += s * target_seed + step * B
    if GOAL == "gradient":
        cotangent += (s * A + step) * N * B
        loss_B = tl.zeros((BLOCK,), tl.float32)
        residual_VD = tl.zeros((Vp, Dp), tl.float32)
        attn_out_grad = tl.zeros((Np, Dp), tl.float32)
        fc1_grad = tl.zeros((Dp, Fp), tl.float32)
        fc2_grad = tl.zeros((Fp, Dp), tl.float32)
        unembed_grad = tl.zeros((Dp, Vp), tl.float32)
        norm2_weight_grad = tl.zeros((Dp,), tl.float32)
        norm2_bias_grad = tl.zeros((Dp,), tl.float32)
        norm_f_weight_grad = tl.zeros((Dp,), tl.float32)
        norm_f_bias_grad = tl.zeros((Dp,), tl.float32)
        fc1_bias_grad = tl.zeros((Fp,), tl.float32)
        fc2_bias_grad = tl.zeros((Dp,), tl.float32)
        if ACTIVATION == "swiglu":
            gate_grad = tl.zeros((Dp, Fp), tl.float32)

    for block in range(part % splits, tl.cdiv(B, BLOCK), splits):
        b = block * BLOCK + tl.arange(0, BLOCK)
        valid_B = b < B
        asked_B = tl.load(tokens + b, mask=valid_B, other=0).to(tl.int32)
        # A token outside the vocabulary shows as a loss that is no number; asking here would stop
        # the device at every step.
        x_BD = tl.load(
            residual + asked_B[:, None] * D + d[None, :],
            mask=(asked_B < V)[:, None] & inside_D,
            other=float("nan"),
        )
        x_BD = tl.where(inside_D, x_BD, 0.0)
        mixed_BN = tl.load(
            mixed + n[None, :] * B + b[:, None], mask=valid_B[:, None] & (n < N)[None, :], other=0.0
        )
        x_BD += product(mixed_BN, attn_out_ND)

        inner_BD = x_BD
        if NORM2 != "none":
            unit2_BD, inverse2_B = normalised(x_BD, eps2, NORM2, D, Dp)
            inner_BD = unit2_BD * row(norm2_weight + s * D, D, Dp)
            if norm2_bias is not None:
                inner_BD += row(norm2_bias + s * D, D, Dp)
        up_BF = product(inner_BD, fc1_DF)
        if fc1_bias is not None:
            up_BF += row(fc1_bias + s * F, F, Fp)
        if ACTIVATION == "swiglu":
            gate_DF = matrix(gate + s * (D * F), D, F, Dp, Fp)
            gate_BF = product(inner_BD, gate_DF)
            open_BF = sigmoid(gate_BF)
            hidden_BF = gate_BF * open_BF * up_BF
        elif ACTIVATION == "gelu":
            hidden_BF = gelu(up_BF)
        else:
            hidden_BF = tl.where(up_BF < 0, 0.0, up_BF)  # lets through what is no number
        x_BD += product(hidden_BF, fc2_FD)
        if fc2_bias is not None:
            x_BD += row(fc2_bias + s * D, D, Dp)
        final_BD = x_BD
        if NORM_F != "none":
            unit_f_BD, inverse_f_B = normalised(x_BD, eps_f, NORM_F, D, Dp)
            final_BD = unit_f_BD * row(norm_f_weight + s * D, D, Dp)
            if norm_f_bias is not None:
                final_BD += row(norm_f_bias + s * D, D, Dp)
        logit_BV = tl.where(inside_V, product(final_BD, unembed_DV), -float("inf"))

        if GOAL == "answers":
            best_B = tl.argmax(logit_BV, 1, tie_break_left=True).to(tl.uint8)
            tl.store(answers + (s * B + b) * A + step, best_B, mask=valid_B)
            tl.store(next_tokens + (s * (T + A) + T + step) * B + b, best_B, mask=valid_B)
        else:
            target_B = tl.load(targets + b, mask=valid_B, other=0).to(tl.int32)
            right_BV = target_B[:, None] == v[None, :]
            right_B = tl.sum(tl.where(right_BV, logit_BV, 0.0), 1)
            right_B = tl.where(target_B < V, right_B, float("nan"))
            if GOAL == "margins":
                other_B = tl.max(tl.where(right_BV, -float("inf"), logit_BV), 1)
                tl.store(margin + (s * B + b) * A + step, right_B - other_B, mask=valid_B)
        if GOAL == "gradient":
            top_B = tl.max(logit_BV, 1)
            share_BV = tl.exp(logit_BV - top_B[:, None])
            total_B = tl.sum(share_BV, 1)
            loss_B += tl.where(valid_B, tl.log(total_B) + top_B - right_B, 0.0)
            slope_BV = share_BV / total_B[:, None] - tl.where(right_BV, 1.0, 0.0)
            slope_BV = tl.where(valid_B[:, None], slope_BV / (B * A), 0.0)

            unembed_grad += product(tl.trans(final_BD), slope_BV)
            x_cotangent = product(slope_BV, tl.trans(unembed_DV))
            if NORM_F != "none":
                norm_f_weight_grad += tl.sum(x_cotangent * unit_f_BD, 0)
                norm_f_bias_grad += tl.sum(x_cotangent, 0)
                x_cotangent *= row(norm_f_weight + s * D, D, Dp)
                x_cotangent = normalised_back(x_cotangent, unit_f_BD, inverse_f_B, NORM_F, D, Dp)
            fc2_grad += product(tl.trans(hidden_BF), x_cotangent)
            fc2_bias_grad += tl.sum(x_cotangent, 0)
            up_cotangent = product(x_cotangent, tl.trans(fc2_FD))
            if ACTIVATION == "swiglu":
                gate_cotangent = up_cotangent * up_BF * open_BF * (1.0 + gate_BF * (1.0 - open_BF))
                up_cotangent *= gate_BF * open_BF
                gate_grad += product(tl.trans(inner_BD), gate_cotangent)
            elif ACTIVATION == "gelu":
                up_cotangent *= gelu_slope(up_BF)
            else:
                up_cotangent = tl.where(up_BF > 0, up_cotangent, 0.0)
            fc1_grad += product(tl.trans(inner_BD), up_cotangent)
            fc1_bias_grad += tl.sum(up_cotangent, 0)
            inner_cotangent = product(up_cotangent, tl.trans(fc1_DF))
            if ACTIVATION == "swiglu":
                inner_cotangent += product(gate_cotangent, tl.trans(gate_DF))
            if NORM2 != "none":
                norm2_weight_grad += tl.sum(inner_cotangent * unit2_BD, 0)
                norm2_bias_grad += tl.sum(inner_cotangent, 0)
                inner_cotangent *= row(norm2_weight + s * D, D, Dp)
                inner_cotangent = normalised_back(inner_cotangent, unit2_BD, inverse2_B, NORM2, D, Dp)
            x_cotangent += inner_cotangent
            attn_out_grad += product(tl.trans(mixed_BN), x_cotangent)
            is_asked_BV = tl.where(asked_B[:, None] == v[None, :], 1.0, 0.0)
            residual_VD += product(tl.trans(is_asked_BV), x_cotangent)
            tl.store(
                cotangent + n[None, :] * B + b[:, None],
                product(x_cotangent, tl.trans(attn_out_ND)),
                mask=valid_B[:, None] & (n < N)[None, :],
            )

    if GOAL == "gradient":
        place = part * A + step
        store_matrix(g_residual + place * (V * D), residual_VD, V, D, Vp, Dp)
        tl.store(loss + place * weights, tl.sum(loss_B, 0) / (B * A))
        store_matrix(g_attn_out + place * weights, attn_out_grad, N, D, Np, Dp)
        store_matrix(g_fc1 + place * weights, fc1_grad, D, F, Dp, Fp)
        store_matrix(g_fc2 + place * weights, fc2_grad, F, D, Fp, Dp)
        store_matrix(g_unembed + place * weights, unembed_grad, D, V, Dp, Vp)
        if ACTIVATION == "swiglu":
            store_matrix(g_gate + place * weights, gate_grad, D, F, Dp, Fp)
        if NORM2 != "none":
            store_row(g_norm2_weight + place * weights, norm2_weight_grad, D, Dp)
        if norm2_bias is not None:
            store_row(g_norm2_bias + place * weights, norm2_bias_grad, D, Dp)
        if NORM_F != "none":
            store_row(g_norm_f_weight + place * weights, norm_f_weight_grad, D, Dp)
        if norm_f_bias is not None:
            store_row(g_norm_f_bias + place * weights, norm_f_bias_grad, D, Dp)
        if fc1_bias is not None:
            store_row(g_fc1_bias + place * weights, fc1_bias_grad, F, Fp)
        if fc2_bias is not None:
            store_row(g_fc2_bias + place * weights, fc2_bias_grad, D, Dp)


# What the kernels are made of.


@triton.jit
def numbers(pointer_B, known_B, N: tl.constexpr):
    """N consecutive numbers from every pointer, NaN where the token is none of the vocabulary."""
    found = ()
    for n in tl.static_range(N):
        found = found + (tl.load(pointer_B + n, mask=known_B, other=float("nan")),)
    return found


@triton.jit
def columns(pointer_B, stride, valid_B, N: tl.constexpr):
    """N numbers ``stride`` apart from every pointer, 0 in rows that hold no pair."""
    found = ()
    for n in tl.static_range(N):
        found = found + (tl.load(pointer_B + n * stride, mask=valid_B, other=0.0),)
    return found


@triton.jit
def filled(like, N: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(N):
        zeros = zeros + (like * 0,)
    return zeros


@triton.jit
def inner(one, other, N: tl.constexpr):
    total = one[0] * other[0]
    for n in tl.static_range(1, N):
        total += one[n] * other[n]
    return total


@triton.jit
def add_scaled(sums, weight, values, N: tl.constexpr):
    """sums + weight * values."""
    result = ()
    for n in tl.static_range(N):
        result = result + (sums[n] + weight * values[n],)
    return result


@triton.jit
def scaled(values, factor, N: tl.constexpr):
    result = ()
    for n in tl.static_range(N):
        result = result + (values[n] * factor,)
    return result


@triton.jit
def add_by_token(sums_V, token_B, values_B, N: tl.constexpr, VOCABULARY: tl.constexpr):
    """To each of N sums over the vocabulary, the rows that hold the token. In a fixed order: atomics
    would give other bits in every run."""
    is_token_BV = token_B[:, None] == tl.arange(0, VOCABULARY)[None, :]
    result = ()
    for n in tl.static_range(N):
        result = result + (sums_V[n] + tl.sum(tl.where(is_token_BV, values_B[n][:, None], 0.0), 0),)
    return result


@triton.jit
def store_by_token(pointer, sums_V, stride, N: tl.constexpr, V: tl.constexpr, VOCABULARY: tl.constexpr):
    """Sums over the vocabulary into rows ``stride`` apart, feature by feature."""
    token_V = tl.arange(0, VOCABULARY)
    for n in tl.static_range(N):
        tl.store(pointer + token_V * stride + n, sums_V[n], mask=token_V < V)


@triton.jit
def matrix(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """A dense (ROWS, COLUMNS) matrix, padded with zeros to (R, C)."""
    row_R, column_C = tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    inside_RC = (row_R < ROWS) & (column_C < COLUMNS)
    return tl.load(pointer + row_R * COLUMNS + column_C, mask=inside_RC, other=0.0)


@triton.jit
def store_matrix(
    pointer, values_RC, ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, C: tl.constexpr
):
    row_R, column_C = tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    inside_RC = (row_R < ROWS) & (column_C < COLUMNS)
    tl.store(pointer + row_R * COLUMNS + column_C, values_RC, mask=inside_RC)


@triton.jit
def row(pointer, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """A vector, padded with zeros, as (1, PADDED)."""
    index = tl.arange(0, PADDED)
    return tl.load(pointer + index, mask=index < SIZE, other=0.0)[None, :]


@triton.jit
def store_row(pointer, values, SIZE: tl.constexpr, PADDED: tl.constexpr):
    index = tl.arange(0, PADDED)
    tl.store(pointer + index, values, mask=index < SIZE)


@triton.jit
def product(one, other):
    """A matrix product in float32 throughout: tensor cores' short formats would cost three digits."""
    return tl.dot(one, other, input_precision="ieee")


@triton.jit
def normalised(x_BD, eps, KIND: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr):
    """(x / its root mean square, 1 / that), x less its mean first for "layer"."""
    if KIND == "layer":
        inside_D = (tl.arange(0, PADDED) < D)[None, :]
        x_BD = tl.where(inside_D, x_BD - (tl.sum(x_BD, 1) / D)[:, None], 0.0)
    inverse_B = 1.0 / tl.sqrt(tl.sum(x_BD * x_BD, 1) / D + eps)
    return x_BD * inverse_B[:, None], inverse_B


@triton.jit
def normalised_back(
    cotangent_BD, unit_BD, inverse_B, KIND: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr
):
    """d loss / d x from cotangent = d loss / d ``normalised``, which is unit."""
    along_B = tl.sum(cotangent_BD * unit_BD, 1) / D
    cotangent_BD = (cotangent_BD - unit_BD * along_B[:, None]) * inverse_B[:, None]
    if KIND == "layer":
        inside_D = (tl.arange(0, PADDED) < D)[None, :]
        cotangent_BD = tl.where(inside_D, cotangent_BD - (tl.sum(cotangent_BD, 1) / D)[:, None], 0.0)
    return cotangent_BD


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))
