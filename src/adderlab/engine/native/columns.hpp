// From the attention's mix to the logits and back, one column (one answer step of one block of
// samples) at a time. The callers run each phase over several columns before the next phase, so
// that independent columns fill the processor's waiting times.
#pragma once

#include "dense.hpp"
#include "weights.hpp"

#define START(n) [&](auto n) __attribute__((always_inline))
#define SINK(n, x) [&](auto n, vf x) __attribute__((always_inline))

INLINE vf zero_or_bias(bool has, const float* bias, int n) { return has ? splat(bias[n]) : vf{}; }

// x -> normed (without weight and bias, which are folded into the next matrix) and scale.
template <Norm NORM>
INLINE void norm(vf (&x)[D], float eps, vf* normed, vf& scale) {
    if constexpr (NORM == Norm::LAYER) {
        vf mean = sum<D>(x) * (1.0f / D);
        unroll<D>(EACH(d) { x[d] -= mean; });
    }
    if constexpr (NORM == Norm::NONE) {
        unroll<D>(EACH(d) { normed[d] = x[d]; });
    } else {
        vf square = x[0] * x[0];
        unroll<D - 1>(EACH(d) { square += x[d + 1] * x[d + 1]; });
        scale = inverse_sqrt(square * (1.0f / D) + eps);
        unroll<D>(EACH(d) { normed[d] = x[d] * scale; });
    }
}

// d loss / d normed -> d loss / d x, in place.
template <Norm NORM>
INLINE void norm_back(vf (&grad)[D], const vf* normed, vf scale) {
    if constexpr (NORM != Norm::NONE) {
        vf along = grad[0] * normed[0];
        unroll<D - 1>(EACH(d) { along += grad[d + 1] * normed[d + 1]; });
        along *= 1.0f / D;
        if constexpr (NORM == Norm::LAYER) {
            vf mean = sum<D>(grad) * (1.0f / D);
            unroll<D>(EACH(d) { grad[d] -= mean; });
        }
        unroll<D>(EACH(d) { grad[d] = scale * (grad[d] - normed[d] * along); });
    }
}

// Residual row + attention output, and norm2.
INLINE void enter_mlp(const Weights& w, const float (*row)[TABLE], vi token, Column& c) {
    vf x[D];
    product<HE, D>(
        c.mix, w.attn_out, START(d) { return lookup(row[HK + d], token); }, SINK(d, y) { x[d] = y; });
    unroll<D>(EACH(d) { c.residual[d] = x[d]; });
    norm<NORM2>(x, w.eps2, c.normed2, c.scale2);
}

INLINE void hidden(const Weights& w, Column& c) {
    auto start = START(f) { return zero_or_bias(HIDDEN_BIAS, w.hidden_bias, f); };
    if constexpr (GATED) {
        product<D, F>(
            c.normed2, w.gate, START(f) { return zero_or_bias(GATE_BIAS, w.gate_bias, f); },
            SINK(f, y) { silu_value_and_slope(y, c.act_slope[f], c.gate[f]); });
        product<D, F>(c.normed2, w.fc1, start, SINK(f, y) {
            c.act[f] = y * c.act_slope[f];
            c.gate[f] *= y;
        });
    } else {
        product<D, F>(c.normed2, w.fc1, start, SINK(f, y) {
            if constexpr (ACTIVATION == Activation::GELU) {
                gelu::value_and_slope(y, c.act[f], c.act_slope[f]);
            } else {
                c.act[f] = larger(vf{}, y);
                c.act_slope[f] = select(y > 0.0f, splat(1.0f), vf{});
            }
        });
    }
}

// MLP output added to the residual stream, and norm_f.
INLINE void leave_mlp(const Weights& w, Column& c) {
    vf x[D];
    product<F, D>(
        c.act, w.fc2, START(d) { return OUT_BIAS ? c.residual[d] + w.out_bias[d] : c.residual[d]; },
        SINK(d, y) { x[d] = y; });
    norm<NORMF>(x, w.epsf, c.normedf, c.scalef);
}

// Logits in bits.
INLINE void logits(const Weights& w, const Column& c, vf (&x)[V]) {
    product<D, V>(
        c.normedf, w.unembed, START(v) { return zero_or_bias(LOGIT_BIAS, w.logit_bias, v); },
        SINK(v, y) { x[v] = y; });
}

// Cross-entropy of the samples in ``valid`` (1 or 0 per lane), and its gradient by the logits.
// The target's gradient is minus the sum of the others' probabilities: p - 1 would lose all
// digits once the model is sure.
INLINE vf loss_and_logit_grad(const Weights& w, vi target, vf valid, Column& c) {
    vf x[V];
    logits(w, c, x);
    vf top = reduce<V>(x, [](vf a, vf b) { return larger(a, b); });
    vf at_target{};
    unroll<V>(EACH(v) {
        vi here = target == int(v);
        at_target = select(here, x[v], at_target);
        x[v] = select(here, vf{}, exp2_clamped(x[v] - top));
    });
    vf others = sum<V>(x), target_bits = at_target - top;
    // The largest logit contributes exactly 1 to the sum, so the sum is 1 + rest.
    vf rest = others + (exp2_clamped(target_bits) - 1.0f);
    vf scale = valid / (1.0f + rest);
    unroll<V>(EACH(v) { c.logit_grad[v] = scale * select(target == int(v), -others, x[v]); });
    return valid * (log_one_plus(rest) - target_bits * LN2);
}

// Logit of the target minus the best other logit, in natural units.
INLINE vf target_margin(const Weights& w, vi target, const Column& c) {
    vf x[V], at_target{};
    logits(w, c, x);
    unroll<V>(EACH(v) {
        vi here = target == int(v);
        at_target = select(here, x[v], at_target);
        x[v] = select(here, splat(-3e38f), x[v]);
    });
    return (at_target - reduce<V>(x, [](vf a, vf b) { return larger(a, b); })) * LN2;
}

// The token with the largest logit, the lowest of equals.
INLINE vi best_token(const Weights& w, const Column& c) {
    vf x[V];
    logits(w, c, x);
    vf top = x[0];
    vi best{};
    unroll<V - 1>(EACH(v) {
        vi better = x[v + 1] > top;
        top = select(better, x[v + 1], top);
        best = (better & (v + 1)) | (~better & best);
    });
    return best;
}

// From the logits down to x_grad.
INLINE void head_back(const Weights& w, Column& c) {
    vf grad[D];
    product<V, D>(
        c.logit_grad, w.unembed_back, START(d) { return vf{}; }, SINK(d, y) { grad[d] = y; });
    norm_back<NORMF>(grad, c.normedf, c.scalef);
    unroll<D>(EACH(d) { c.x_grad[d] = grad[d]; });
}

INLINE void hidden_back(const Weights& w, Column& c) {
    product<D, F>(
        c.x_grad, w.fc2_back, START(f) { return vf{}; }, SINK(f, y) {
            c.act_slope[f] *= y;
            if constexpr (GATED) c.gate[f] *= y;
        });
}

// Through norm2 and the attention's output to the cotangent on the mixed values.
INLINE void leave_back(const Weights& w, Column& c) {
    vf grad[D];
    product<F, D>(c.act_slope, w.fc1_back, START(d) { return vf{}; }, SINK(d, y) { grad[d] = y; });
    if constexpr (GATED)
        product<F, D>(c.gate, w.gate_back, START(d) { return grad[d]; }, SINK(d, y) { grad[d] = y; });
    norm_back<NORM2>(grad, c.normed2, c.scale2);
    vf* row_grad = c.row_grad + HK;
    unroll<D>(EACH(d) { row_grad[d] = grad[d] + c.x_grad[d]; });
    product<D, HE>(
        row_grad, w.attn_out_back, START(e) { return vf{}; },
        SINK(e, y) { c.cotangent[e] = y * c.inverse_sum[e / E]; });
    unroll<H>(EACH(h) {
        vf mean = c.cotangent[h * E] * c.mix[h * E];
        unroll<E - 1>(EACH(e) { mean += c.cotangent[h * E + e + 1] * c.mix[h * E + e + 1]; });
        c.cotangent_mean[h] = mean;
    });
}

// Weight gradients of all columns of a group.
INLINE void sum_weight_grads(int columns, const Column* c, vf* sum) {
    outer<HE, D>(columns, COLUMN, c->mix, c->row_grad + HK, sum + S_ATTN_OUT);
    outer<D, F>(columns, COLUMN, c->normed2, c->act_slope, sum + S_FC1);
    if constexpr (GATED) outer<D, F>(columns, COLUMN, c->normed2, c->gate, sum + S_GATE);
    outer<F, D>(columns, COLUMN, c->act, c->x_grad, sum + S_FC2);
    outer<D, V>(columns, COLUMN, c->normedf, c->logit_grad, sum + S_UNEMBED);
    if constexpr (HIDDEN_BIAS) add_columns<F>(columns, COLUMN, c->act_slope, sum + S_HIDDEN_BIAS);
    if constexpr (GATE_BIAS) add_columns<F>(columns, COLUMN, c->gate, sum + S_GATE_BIAS);
    if constexpr (OUT_BIAS) add_columns<D>(columns, COLUMN, c->x_grad, sum + S_OUT_BIAS);
    if constexpr (LOGIT_BIAS) add_columns<V>(columns, COLUMN, c->logit_grad, sum + S_LOGIT_BIAS);
}
