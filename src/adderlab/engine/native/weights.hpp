// One seed's tables in the form the inner loops read: lookup rows of 16 or 32, matrices with norms, units
// of log2 and GELU steps folded in. And the way back, from sums of gradients to table gradients.
#pragma once

#include "functions.hpp"
#include "request.hpp"
#include "shape.hpp"

struct Weights : HeadWeights {
    alignas(64) float kv_row[P][KV][TABLE];
    float query_row[A][QR][TABLE];
    const float* score;         // the table itself
    float score_scale[SCALES];  // in bits
    bool wide;           // scores may leave +-60 bits: subtract the largest first
};

constexpr int KV_SUMS = P * V * KV_ROW, QR_SUMS = A * V * QR_ROW;

// Sums over one chunk of samples; dense ones still per lane.
struct Sums {
    vf dense[DENSE];
    alignas(64) float kv[KV_SUMS], qr[QR_SUMS];
    // Of scores that no token decides one vector each, as of the dense ones.
    vf bias[BIASED ? SCORES : 1], score_scale[SCALES];
    float score[BIASED ? 0 : SCORES];
    double loss[W];
};

// Sums over the batch.
struct Totals {
    double dense[DENSE], kv[KV_SUMS], qr[QR_SUMS], score[SCORES], score_scale[SCALES], loss;
};

// totals = sums when ``first``, totals += sums otherwise.
inline void add_chunk(Totals& totals, const Sums& sums, bool first) {
    auto add = [first](double& total, double sum) { total = first ? sum : total + sum; };
    for (int i = 0; i < DENSE; i++) add(totals.dense[i], lane_sum(sums.dense[i]));
    for (int i = 0; i < KV_SUMS; i++) add(totals.kv[i], sums.kv[i]);
    for (int i = 0; i < QR_SUMS; i++) add(totals.qr[i], sums.qr[i]);
    if constexpr (BIASED)
        for (int i = 0; i < SCORES; i++) add(totals.score[i], lane_sum(sums.bias[i]));
    else
        for (int i = 0; i < SCORES; i++) add(totals.score[i], sums.score[i]);
    for (int i = 0; i < SCALES; i++) add(totals.score_scale[i], lane_sum(sums.score_scale[i]));
    double loss = 0.0;
    for (int l = 0; l < W; l++) loss += sums.loss[l];
    add(totals.loss, loss);
}

inline void add_totals(Totals& totals, const Totals& other, bool first) {
    double *to = (double*)&totals;
    const double* from = (const double*)&other;
    for (size_t i = 0; i < sizeof(Totals) / sizeof(double); i++) to[i] = first ? from[i] : to[i] + from[i];
}

// The norm's weight d, 1 without one; its bias, 0 without one.
INLINE double weight_at(const float* weight, int d) { return weight ? weight[d] : 1.0; }
INLINE double bias_at(const float* bias, int d) { return bias ? bias[d] : 0.0; }

// folded[d][n] = weight[d] * matrix[d][n] * unit, its transpose times ``back_unit`` instead, and
// folded_bias[n] = (own_bias[n] + sum_d bias[d] * matrix[d][n]) * bias_unit.
template <int M, int N>
inline void fold(const float* matrix, const float* weight, const float* bias, const float* own_bias,
                 double unit, double back_unit, double bias_unit, float* folded, float* back,
                 float* folded_bias) {
    for (int d = 0; d < M; d++)
        for (int n = 0; n < N; n++) {
            double x = weight_at(weight, d) * matrix[d * N + n];
            folded[d * N + n] = float(x * unit);
            back[n * M + d] = float(x * back_unit);
        }
    if (!folded_bias) return;
    for (int n = 0; n < N; n++) {
        double x = bias_at(own_bias, n);
        for (int d = 0; d < M; d++) x += bias_at(bias, d) * matrix[d * N + n];
        folded_bias[n] = float(x * bias_unit);
    }
}

// A gradient that is one sum is written as it is; one of several is added up in double precision.
INLINE void put(float& grad, double x) { grad = float(x); }
INLINE void put(double& grad, double x) { grad += x; }

template <class Grad>
inline void store(const double* values, int count, double unit, Grad* grad) {
    for (int i = 0; i < count; i++) put(grad[i], values[i] * unit);
}

// Gradients of matrix, weight, bias and own_bias above from the sums over samples of
// normed^T grad (sum) and grad (bias_sum), where grad = d loss / d (output / unit).
template <int M, int N, class Grad, class BiasGrad>
inline void unfold(const double* sum, const double* bias_sum, const float* matrix, const float* weight,
                   const float* bias, double unit, Grad* matrix_grad, double* weight_grad, double* bias_grad,
                   BiasGrad* own_bias_grad) {
    for (int d = 0; d < M; d++)
        for (int n = 0; n < N; n++) {
            double x = sum[d * N + n] * unit, b = bias_sum ? bias_sum[n] * unit : 0.0;
            put(matrix_grad[d * N + n], x * weight_at(weight, d) + b * bias_at(bias, d));
            weight_grad[d] += x * matrix[d * N + n];
            bias_grad[d] += b * matrix[d * N + n];
        }
    if (own_bias_grad)
        for (int n = 0; n < N; n++) put(own_bias_grad[n], bias_sum[n] * unit);
}
