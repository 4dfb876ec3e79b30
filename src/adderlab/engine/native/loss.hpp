// What is asked of the logits of one column: the loss and its gradient, the margin, the best token.
// They come in bits from ``logits``, which head.py writes.
#pragma once

#include "weights.hpp"

// Cross-entropy of the samples in ``valid`` (1 or 0 per lane), and its gradient by the logits.
// The target's gradient is minus the sum of the others' probabilities: p - 1 would lose all
// digits once the model is sure.
INLINE vf loss_and_logit_grad(const Weights& w, const float (*row)[TABLE], vi token, vi target, vf valid,
                               Column& c) {
    vf x[V];
    logits(w, row, token, c, x);
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
INLINE vf target_margin(const Weights& w, const float (*row)[TABLE], vi token, vi target, Column& c) {
    vf x[V], at_target{};
    logits(w, row, token, c, x);
    unroll<V>(EACH(v) {
        vi here = target == int(v);
        at_target = select(here, x[v], at_target);
        x[v] = select(here, splat(-3e38f), x[v]);
    });
    return (at_target - reduce<V>(x, [](vf a, vf b) { return larger(a, b); })) * LN2;
}

// The token with the largest logit, the lowest of equals.
INLINE vi best_token(const Weights& w, const float (*row)[TABLE], vi token, Column& c) {
    vf x[V];
    logits(w, row, token, c, x);
    vf top = x[0];
    vi best{};
    unroll<V - 1>(EACH(v) {
        vi better = x[v + 1] > top;
        top = select(better, x[v + 1], top);
        best = (better & (v + 1)) | (~better & best);
    });
    return best;
}
