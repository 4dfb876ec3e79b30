// One seed's tables in the form the inner loops read: lookup rows of 16, matrices with norms, units
// of log2 and GELU steps folded in. And the way back, from sums of gradients to table gradients.
#pragma once

#include "functions.hpp"
#include "request.hpp"
#include "shape.hpp"

constexpr int TABLE_SIZE[TABLES] = {
    A * V * HK, P * V * HK, P * V * HE, A * V * D, HE * D, D, D, D * F, F, D * F, F * D, D, D, D, D * V};

constexpr double HIDDEN_UNIT = ACTIVATION == Activation::GELU ? gelu::STEP : 1.0;

struct Weights {
    alignas(64) float kv_row[P][KV][TABLE];
    float query_row[A][QR][TABLE];
    float attn_out[HE * D], attn_out_back[D * HE];
    float fc1[D * F], fc1_back[F * D], gate[D * F], gate_back[F * D], fc2[F * D], fc2_back[D * F];
    float unembed[D * V], unembed_back[V * D];
    float hidden_bias[F], gate_bias[F], out_bias[D], logit_bias[V];
    float eps2, epsf;
    bool wide;  // scores may leave +-60 bits: subtract the largest first
};

// Offsets of the summed weight gradients.
constexpr int S_ATTN_OUT = 0, S_FC1 = S_ATTN_OUT + HE * D, S_GATE = S_FC1 + D * F;
constexpr int S_FC2 = S_GATE + (GATED ? D * F : 0), S_UNEMBED = S_FC2 + F * D;
constexpr int S_HIDDEN_BIAS = S_UNEMBED + D * V, S_GATE_BIAS = S_HIDDEN_BIAS + (HIDDEN_BIAS ? F : 0);
constexpr int S_OUT_BIAS = S_GATE_BIAS + (GATE_BIAS ? F : 0);
constexpr int S_LOGIT_BIAS = S_OUT_BIAS + (OUT_BIAS ? D : 0);
constexpr int DENSE = S_LOGIT_BIAS + (LOGIT_BIAS ? V : 0);
constexpr int KV_SUMS = P * V * KV_ROW, QR_SUMS = A * V * QR_ROW;

// Sums over one chunk of samples; dense ones still per lane.
struct Sums {
    vf dense[DENSE];
    alignas(64) float kv[KV_SUMS], qr[QR_SUMS];
    double loss[W];
};

// Sums over the batch.
struct Totals {
    double dense[DENSE], kv[KV_SUMS], qr[QR_SUMS], loss;
};

// totals = sums when ``first``, totals += sums otherwise.
inline void add_chunk(Totals& totals, const Sums& sums, bool first) {
    auto add = [first](double& total, double sum) { total = first ? sum : total + sum; };
    for (int i = 0; i < DENSE; i++) add(totals.dense[i], lane_sum(sums.dense[i]));
    for (int i = 0; i < KV_SUMS; i++) add(totals.kv[i], sums.kv[i]);
    for (int i = 0; i < QR_SUMS; i++) add(totals.qr[i], sums.qr[i]);
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
// folded_bias[n] = (own_bias[n] + sum_d bias[d] * matrix[d][n]) * unit.
template <int M, int N>
inline void fold(const float* matrix, const float* weight, const float* bias, const float* own_bias,
                 double unit, double back_unit, float* folded, float* back, float* folded_bias) {
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
        folded_bias[n] = float(x * unit);
    }
}

// Gradients of matrix, weight, bias and own_bias above from the sums over samples of
// normed^T grad (sum) and grad (bias_sum), where grad = d loss / d (output / unit).
template <int M, int N>
inline void unfold(const double* sum, const double* bias_sum, const float* matrix, const float* weight,
                   const float* bias, double unit, float* matrix_grad, double* weight_grad, double* bias_grad,
                   float* own_bias_grad) {
    for (int d = 0; d < M; d++)
        for (int n = 0; n < N; n++) {
            double x = sum[d * N + n] * unit, b = bias_sum ? bias_sum[n] * unit : 0.0;
            matrix_grad[d * N + n] = float(x * weight_at(weight, d) + b * bias_at(bias, d));
            weight_grad[d] += x * matrix[d * N + n];
            bias_grad[d] += b * matrix[d * N + n];
        }
    if (own_bias_grad)
        for (int n = 0; n < N; n++) own_bias_grad[n] = float(bias_sum[n] * unit);
}
