// Norms over the channels of a vector of samples, without weight and bias.
#pragma once

#include "simd.hpp"

// normed = x * scale, scale = 1 / sqrt(mean(x^2) + eps); CENTRED: the same of x minus its mean.
template <bool CENTRED, int N>
INLINE void norm(const vf* from, float eps, vf* normed, vf& scale) {
    vf x[N];
    unroll<N>(EACH(d) { x[d] = from[d]; });
    if constexpr (CENTRED) {
        vf mean = sum<N>(x) * (1.0f / N);
        unroll<N>(EACH(d) { x[d] -= mean; });
    }
    vf square = x[0] * x[0];
    unroll<N - 1>(EACH(d) { square += x[d + 1] * x[d + 1]; });
    scale = inverse_sqrt(square * (1.0f / N) + eps);
    unroll<N>(EACH(d) { normed[d] = x[d] * scale; });
}

// d loss / d normed -> d loss / d x.
template <bool CENTRED, int N>
INLINE void norm_back(const vf* from, const vf* normed, vf scale, vf* x_grad) {
    vf grad[N];
    unroll<N>(EACH(d) { grad[d] = from[d]; });
    vf along = grad[0] * normed[0];
    unroll<N - 1>(EACH(d) { along += grad[d + 1] * normed[d + 1]; });
    along *= 1.0f / N;
    if constexpr (CENTRED) {
        vf mean = sum<N>(grad) * (1.0f / N);
        unroll<N>(EACH(d) { grad[d] -= mean; });
    }
    unroll<N>(EACH(d) { x_grad[d] = scale * (grad[d] - normed[d] * along); });
}
