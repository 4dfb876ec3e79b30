"""From the attention's mix to logits, and back: one kernel for all that happens after attention.

A program has one seed and one answer step. Rows are pairs; sizes are padded to powers of two, at
least 16 (what ``tl.dot`` takes), with zeros.

Shapes: S seeds, B pairs, A answer steps, V vocabulary, N = H * E, D width, F hidden units. Single
letters of padded sizes: R rows (pairs of a block), and Vp, Np, Dp, Fp.
"""

import triton
import triton.language as tl

from adderlab.engine.triton.functions import (
    gelu,
    gelu_slope,
    matrix,
    normalised,
    normalised_back,
    product,
    row,
    sigmoid,
    store_matrix,
    store_row,
)


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
