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

// Whether some score may exceed SAFE_BITS: sum over k of the largest |query_k| |key_k| of any tokens, or
// what a limited function allows, and what is added to it.
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
                if constexpr (CURVED) bound = std::fabs(w.score_scale[a * H + h]);
                if constexpr (BIASED) bound += std::fabs(w.score[(a * H + h) * P + p]) * LOG2E;
                if (!(bound <= SAFE_BITS)) return true;
            }
    return false;
}

// ``table``: the attention's, in the order of ``enum Table``, then the head's constants.
inline void load_weights(const float* const* table, Weights& w) {
    for (int p = 0; p < P; p++) {
        load_rows(table[KEY] + p * V * HK, HK, 1.0f, w.kv_row[p]);
        load_rows(table[VALUE] + p * V * HE, HE, 1.0f, w.kv_row[p] + HK);
    }
    for (int a = 0; a < A; a++) {
        load_rows(table[QUERY] + a * V * HK, HK, CURVED ? 1.0f : LOG2E, w.query_row[a]);
        load_rows(table[RESIDUAL] + a * V * R, R, 1.0f, w.query_row[a] + HK);
        if constexpr (SINK) load_rows(table[SINK_TABLE] + a * V * H, H, LOG2E, w.query_row[a] + HK + R);
    }
    w.score = table[SCORE_TABLE];
    if constexpr (CURVED)
        for (int i = 0; i < SCALES; i++) w.score_scale[i] = table[SCALE_TABLE][i] * LOG2E;
    w.wide = (SCORE && !BIASED) || SINK || (CURVED && !LIMITED) || wide_scores(w);
    load_head(table + CONSTANTS, w);
}

// grad[v * N + n] = sum[v * stride + n] * unit.
inline void store_rows(const double* sum, int stride, int N, double unit, float* grad) {
    for (int v = 0; v < V; v++)
        for (int n = 0; n < N; n++) grad[v * N + n] = float(sum[v * stride + n] * unit);
}

// ``unit`` is 1 / number of targets; the sums carry the gradient of the summed loss.
inline void store_grads(Totals& total, const float* const* table, double unit, float* const* grad) {
    for (double& x : total.dense) x *= unit;
    for (int p = 0; p < P; p++) {
        const double* sum = total.kv + p * V * KV_ROW;
        // The key's gradient was summed with queries in bits, unless scores are curved.
        store_rows(sum, KV_ROW, HK, CURVED ? unit : unit * LN2_EXACT, grad[KEY] + p * V * HK);
        store_rows(sum + HK, KV_ROW, HE, unit, grad[VALUE] + p * V * HE);
    }
    for (int a = 0; a < A; a++) {
        const double* sum = total.qr + a * V * QR_ROW;
        store_rows(sum, QR_ROW, HK, unit, grad[QUERY] + a * V * HK);
        store_rows(sum + HK, QR_ROW, R, unit, grad[RESIDUAL] + a * V * R);
        if constexpr (SINK) store_rows(sum + HK + R, QR_ROW, H, unit, grad[SINK_TABLE] + a * V * H);
    }
    if constexpr (SCORE) store(total.score, SCORES, unit, grad[SCORE_TABLE]);
    if constexpr (CURVED) store(total.score_scale, SCALES, unit, grad[SCALE_TABLE]);
    store_head(total.dense, table + CONSTANTS, grad + CONSTANTS);
}
