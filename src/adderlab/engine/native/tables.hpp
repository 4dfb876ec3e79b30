// Between a seed's tables, as PyTorch holds them, and Weights and Totals.
#pragma once

#include <algorithm>

#include "weights.hpp"

constexpr float SAFE_BITS = 60.0f;

// row[n][v] = table[v * N + n] * unit for one position or step; entries beyond V are zero.
inline void load_rows(const float* table, int N, float unit, float (*row)[TABLE]) {
    for (int n = 0; n < N; n++)
        for (int v = 0; v < TABLE; v++) row[n][v] = v < V ? table[v * N + n] * unit : 0.0f;
}

inline float largest(const float (&row)[TABLE]) {
    float result = 0.0f;
    for (float x : row) result = std::max(result, std::fabs(x));
    return result;
}

// Whether some score may exceed SAFE_BITS: sum over k of the largest |query_k| |key_k| of any tokens.
inline bool wide_scores(const Weights& w) {
    float query[A][HK], key[P][HK];
    for (int a = 0; a < A; a++)
        for (int k = 0; k < HK; k++) query[a][k] = largest(w.query_row[a][k]);
    for (int p = 0; p < P; p++)
        for (int k = 0; k < HK; k++) key[p][k] = largest(w.kv_row[p][k]);
    for (int a = 0; a < A; a++)
        for (int p = 0; p < T + a; p++)
            for (int h = 0; h < H; h++) {
                float bound = 0.0f;
                for (int k = h * K; k < (h + 1) * K; k++) bound += query[a][k] * key[p][k];
                if (!(bound <= SAFE_BITS)) return true;
            }
    return false;
}

inline void load_weights(const float* const* table, float eps2, float epsf, Weights& w) {
    for (int p = 0; p < P; p++) {
        load_rows(table[KEY] + p * V * HK, HK, 1.0f, w.kv_row[p]);
        load_rows(table[VALUE] + p * V * HE, HE, 1.0f, w.kv_row[p] + HK);
    }
    for (int a = 0; a < A; a++) {
        load_rows(table[QUERY] + a * V * HK, HK, LOG2E, w.query_row[a]);
        load_rows(table[RESIDUAL] + a * V * D, D, 1.0f, w.query_row[a] + HK);
    }
    w.wide = wide_scores(w);
    w.eps2 = eps2;
    w.epsf = epsf;
    const float *weight2 = table[NORM2_WEIGHT], *bias2 = table[NORM2_BIAS];
    fold<HE, D>(table[ATTN_OUT], nullptr, nullptr, nullptr, 1.0, 1.0, w.attn_out, w.attn_out_back, nullptr);
    fold<D, F>(table[FC1], weight2, bias2, table[FC1_BIAS], 1.0 / HIDDEN_UNIT, 1.0 / HIDDEN_UNIT, w.fc1,
               w.fc1_back, w.hidden_bias);
    if (GATED)
        fold<D, F>(table[GATE], weight2, bias2, nullptr, 1.0, 1.0, w.gate, w.gate_back, w.gate_bias);
    fold<F, D>(table[FC2], nullptr, nullptr, nullptr, HIDDEN_UNIT, HIDDEN_UNIT, w.fc2, w.fc2_back, nullptr);
    for (int d = 0; d < D; d++) w.out_bias[d] = float(bias_at(table[FC2_BIAS], d));
    fold<D, V>(table[UNEMBED], table[NORMF_WEIGHT], table[NORMF_BIAS], nullptr, LOG2E_EXACT, 1.0, w.unembed,
               w.unembed_back, w.logit_bias);
}

// grad[v * N + n] = sum[v * stride + n] * unit.
inline void store_rows(const double* sum, int stride, int N, double unit, float* grad) {
    for (int v = 0; v < V; v++)
        for (int n = 0; n < N; n++) grad[v * N + n] = float(sum[v * stride + n] * unit);
}

inline void store(const double* values, int count, double unit, float* out) {
    if (out)
        for (int i = 0; i < count; i++) out[i] = float(values[i] * unit);
}

// ``unit`` is 1 / number of targets; the sums carry the gradient of the summed loss.
inline void store_grads(Totals& total, const float* const* table, double unit, float* const* grad) {
    for (double& x : total.dense) x *= unit;
    for (int p = 0; p < P; p++) {
        const double* sum = total.kv + p * V * KV_ROW;
        // The key's gradient was summed with queries in bits.
        store_rows(sum, KV_ROW, HK, unit * LN2_EXACT, grad[KEY] + p * V * HK);
        store_rows(sum + HK, KV_ROW, HE, unit, grad[VALUE] + p * V * HE);
    }
    for (int a = 0; a < A; a++) {
        const double* sum = total.qr + a * V * QR_ROW;
        store_rows(sum, QR_ROW, HK, unit, grad[QUERY] + a * V * HK);
        store_rows(sum + HK, QR_ROW, D, unit, grad[RESIDUAL] + a * V * D);
    }
    const double* dense = total.dense;
    double weight2[D] = {}, bias2[D] = {}, weightf[D] = {}, biasf[D] = {};
    store(dense + S_ATTN_OUT, HE * D, 1.0, grad[ATTN_OUT]);
    unfold<D, F>(dense + S_FC1, HIDDEN_BIAS ? dense + S_HIDDEN_BIAS : nullptr, table[FC1],
                 table[NORM2_WEIGHT], table[NORM2_BIAS], 1.0 / HIDDEN_UNIT, grad[FC1], weight2, bias2,
                 grad[FC1_BIAS]);
    if (GATED)
        unfold<D, F>(dense + S_GATE, GATE_BIAS ? dense + S_GATE_BIAS : nullptr, table[GATE],
                     table[NORM2_WEIGHT], table[NORM2_BIAS], 1.0, grad[GATE], weight2, bias2, nullptr);
    store(dense + S_FC2, F * D, HIDDEN_UNIT, grad[FC2]);
    if (OUT_BIAS) store(dense + S_OUT_BIAS, D, 1.0, grad[FC2_BIAS]);
    unfold<D, V>(dense + S_UNEMBED, LOGIT_BIAS ? dense + S_LOGIT_BIAS : nullptr, table[UNEMBED],
                 table[NORMF_WEIGHT], table[NORMF_BIAS], 1.0, grad[UNEMBED], weightf, biasf, nullptr);
    store(weight2, D, 1.0, grad[NORM2_WEIGHT]);
    store(bias2, D, 1.0, grad[NORM2_BIAS]);
    store(weightf, D, 1.0, grad[NORMF_WEIGHT]);
    store(biasf, D, 1.0, grad[NORMF_BIAS]);
}
